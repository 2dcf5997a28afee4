"""The application that `celery -A cachekeeper worker` runs. Importing it opens no connection.

No other module of this package imports it. So read-side code that imports `cachekeeper` does not load Celery.
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
    # One line for the person who set the variables. A traceback would not help them.
    raise SystemExit(str(error)) from None
