"""The application that `celery -A cachekeeper worker` runs. Importing it connects to nothing.

Nothing else of this package imports it: read-side code that imports `cachekeeper` loads no Celery.
"""

from cachekeeper.consuming.celery_app import create_app
from cachekeeper.consuming.celery_environment import ignore_foreign
from cachekeeper.errors import RegistrationError, SettingsError
from cachekeeper.model.registry import load_checked
from cachekeeper.settings import WorkerSettings

ignore_foreign()
try:
    app = create_app(*load_checked(WorkerSettings))
except (RegistrationError, SettingsError) as error:
    # For whoever set the variables, who has no use for a traceback.
    raise SystemExit(str(error)) from None
