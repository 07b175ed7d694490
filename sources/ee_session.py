"""Earth Engine's own client, started with the user's credentials and going through this program's door to the network.

Credentials, the first that there are: an access token in EARTHENGINE_TOKEN; the key file of a service account (or of
`gcloud auth application-default login`) that GOOGLE_APPLICATION_CREDENTIALS names; what `earthengine authenticate`
left.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ee
import google.auth.exceptions
import google.oauth2.credentials
import google.oauth2.service_account
import googleapiclient.errors
import httplib2

from roofkit.errors import BadInputError, MissingInputError, SettingsError
from roofkit.settings import DownloadArgs
from roofkit.web import Web, WebError

STEPS = (
    "Once: register a project at code.earthengine.google.com/register, run .venv/bin/earthengine authenticate, "
    "and give --project ID. Without a browser: set GOOGLE_APPLICATION_CREDENTIALS to the key file of a service account."
)
KEY_FILE = "GOOGLE_APPLICATION_CREDENTIALS"
TOKEN = "EARTHENGINE_TOKEN"  # the name of a variable


class Transport:
    """The connection that Earth Engine's client is given: `httplib2`'s interface over `Web`.

    Retries are `Web`'s. A token that is refused is renewed once by the client; refused again, the request ends.
    """

    def __init__(self, web: Web) -> None:
        self.web = web
        self.refused: set[str] = set()

    def request(
        self, uri: str, method: str = "GET", body: Any = None, headers: Any = None, **options: Any
    ) -> tuple[httplib2.Response, bytes]:
        """The answer to one request, whatever its status.

        Raises:
            WebError: The server is not reached, fails for good, or refuses credentials twice.
        """
        headers = {str(key): value for key, value in (headers or {}).items()}
        for key, value in headers.items():
            if key.lower() == "authorization":
                self.web.hide(_text(value).split()[-1])
        response = self.web.send(self.web.prepared(method, uri, data=body, headers=headers))
        if response.status_code == 401 and uri in self.refused:
            raise WebError(self.web.safe(uri), "401: credentials are refused", "valid ones", STEPS)
        (self.refused.add if response.status_code == 401 else self.refused.discard)(uri)
        plain = {key.lower(): value for key, value in response.headers.items()}
        return httplib2.Response({**plain, "status": str(response.status_code)}), response.content


def start_earth_engine(settings: DownloadArgs, web: Web) -> None:
    """Initialize `ee`, so that its functions can be called.

    Raises:
        RoofError: There are no credentials, they are refused, no project is named, or the service is not reached.
    """
    credentials, own_project = find_credentials(web)
    project = settings.project or os.environ.get("GOOGLE_CLOUD_PROJECT") or own_project
    if not project:
        raise SettingsError("download_args.project", "null", "a Google Cloud project registered for it", STEPS)
    web.give(settings.ee_url)
    ee.Reset()
    ee.data.setMaxRetries(0)  # Web's
    with ee_errors(settings.ee_url, web), _without_catalogue():
        ee.Initialize(credentials, url=settings.ee_url.rstrip("/"), project=project, http_transport=Transport(web))


def find_credentials(web: Web) -> tuple[Any, str | None]:
    """The user's credentials, and the project that they name.

    Raises:
        MissingInputError: There are none.
        BadInputError: The file that should hold them does not.
    """
    if token := os.environ.get(TOKEN):
        web.hide(token)
        return google.oauth2.credentials.Credentials(token), None
    if name := os.environ.get(KEY_FILE):
        return _of_file(Path(name), web)
    stored = Path(ee.oauth.get_credentials_path())
    if stored.exists():
        with contextlib.suppress(OSError, ValueError):
            arguments = ee.oauth.get_credentials_arguments()
            if arguments.get("refresh_token"):
                web.hide(arguments["refresh_token"], arguments.get("client_secret"))
                return google.oauth2.credentials.Credentials(None, **arguments), arguments.get("quota_project_id")
        raise BadInputError(stored, "no refresh token in it", "what earthengine authenticate writes", STEPS)
    config = Path(os.environ.get("CLOUDSDK_CONFIG", Path.home() / ".config/gcloud"))
    if (config / "application_default_credentials.json").exists():
        return _of_file(config / "application_default_credentials.json", web)
    raise MissingInputError("Earth Engine", "no credentials", "your own", STEPS)


def _of_file(path: Path, web: Web) -> tuple[Any, str | None]:
    """Credentials of a key file; nothing of it is ever shown."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        kind = values.get("type")
        web.hide(*(str(values[key]) for key in ("private_key", "refresh_token", "client_secret") if values.get(key)))
        if kind == "service_account":
            account = google.oauth2.service_account.Credentials
            web.give(values["token_uri"])
            return account.from_service_account_info(values, scopes=ee.oauth.SCOPES), values.get("project_id")
        if kind == "authorized_user":
            user = google.oauth2.credentials.Credentials
            return user.from_authorized_user_info(values, scopes=ee.oauth.SCOPES), values.get("quota_project_id")
    except FileNotFoundError:
        raise MissingInputError(path, "no such file", "the key file that the environment names", STEPS) from None
    except (OSError, ValueError, KeyError, AttributeError, google.auth.exceptions.GoogleAuthError) as error:
        raise BadInputError(path, f"no key file ({type(error).__name__})", "a service account's key", STEPS) from None
    raise BadInputError(path, f"credentials of type {kind!r}", "service_account or authorized_user", STEPS)


@contextlib.contextmanager
def _without_catalogue() -> Iterator[None]:
    """Keep `ee.Initialize` from fetching its list of deprecated data from another host."""
    before = ee.deprecation.InitializeDeprecatedAssets
    ee.deprecation.InitializeDeprecatedAssets = lambda: None
    try:
        yield
    finally:
        ee.deprecation.InitializeDeprecatedAssets = before


@contextlib.contextmanager
def ee_errors(where: str, web: Web) -> Iterator[None]:
    """Turn what Earth Engine's client raises into one line that holds no credential.

    Raises:
        WebError: The service refused, or answered with something else.
    """
    advice = "Check collection, bands, dates and project."
    try:
        yield
    except ee.EEException as error:
        raise WebError(where, f"Earth Engine refuses: {web.safe(error)}", "an answer", advice) from None
    except google.auth.exceptions.GoogleAuthError as error:
        found = f"credentials are refused ({web.safe(error)})"
        raise WebError(where, found, "valid credentials", STEPS) from None
    except googleapiclient.errors.HttpError as error:
        advice = STEPS if error.resp.status in (401, 403) else "Check --ee-url."
        raise WebError(where, f"Earth Engine refuses: {web.safe(error)}", "an answer", advice) from None
    except (googleapiclient.errors.Error, ValueError, KeyError) as error:
        found = f"not an answer of Earth Engine ({web.safe(error) or type(error).__name__})"
        raise WebError(where, found, "its service", "Check --ee-url.") from None


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
