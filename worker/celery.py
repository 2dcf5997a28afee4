"""The application that `celery -A worker worker` runs. Importing it connects to nothing."""

from cachekeeper.delivery.app import create_app
from cachekeeper.errors import RegistrationError, SettingsError
from cachekeeper.registry import load_checked
from cachekeeper.settings import WorkerSettings

try:
    app = create_app(*load_checked(WorkerSettings))
except (RegistrationError, SettingsError) as error:
    # For whoever set the variables, who has no use for a traceback.
    raise SystemExit(str(error)) from None
