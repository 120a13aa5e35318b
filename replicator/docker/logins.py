"""Docker's logins as a source of credentials for registries that have none elsewhere."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from replicator.docker.config import DockerConfig, HelperLogin, StoredLogin, parse_config
from replicator.docker.helpers import PROGRAM, Helper
from replicator.errors import ConfigError, Problem
from replicator.registry.access import Access

if TYPE_CHECKING:
    from collections.abc import Mapping

OFF = "off"
"""What stands in a file's place where Docker's logins are not wanted."""
_MAX_BYTES = 1024 * 1024


class DockerLogins:
    """The logins of one file. A file that can't be used is an error only for who needs it.

    Args:
        file: the file; None for no logins at all.
        required: whether it is a mistake that the file is missing.

    Attributes:
        problem: what is wrong with the file as a whole.
    """

    def __init__(self, file: Path | None, *, required: bool) -> None:
        self._file = file
        self._config = DockerConfig({})
        self._found: dict[tuple[str, str], tuple[Access, str]] = {}
        self.problem: Problem | None = None
        if file is None:
            return
        try:
            text = _read(file)
            self._config = parse_config(text)
        except FileNotFoundError:
            if required:
                self.problem = Problem(str(file), "there is no such file; see REPLICATOR_DOCKER_CONFIG")
        except OSError as error:
            self.problem = Problem(str(file), f"it can't be read: {error.strerror or 'not a file'}")
        except UnicodeDecodeError:
            self.problem = Problem(str(file), "it is not UTF-8 text")
        except ValueError as error:
            self.problem = Problem(str(file), str(error))

    def find(self, path: str) -> tuple[Access, str] | None:
        """Return the login for a registry or a part of it, and where it is from, in words; None if there is none.

        Args:
            path: ``host``, ``host/project`` or ``host/repository``, the host in lower case.

        Raises:
            ConfigError: the file, or what it says of this login, can't be used.
        """
        if self.problem is not None:
            raise ConfigError(self.problem.path, [Problem("", self.problem.message)])
        found = self._config.find(path)
        if found is None:
            return None
        key, login = found
        registry = path.partition("/")[0]
        if (registry, key) not in self._found:
            self._found[registry, key] = self._opened(registry, key, login)
        return self._found[registry, key]

    def _opened(self, registry: str, key: str, login: StoredLogin | HelperLogin | Problem) -> tuple[Access, str]:
        if isinstance(login, Problem):
            raise ConfigError(str(self._file), [login])
        if not isinstance(login, HelperLogin):
            return Access(login.username, login.password), str(self._file)
        program = f"{PROGRAM}{login.helper}"
        if shutil.which(program) is None:
            message = f"its helper {program} is not on PATH"
            raise ConfigError(str(self._file), [Problem(key, message)])
        return Access(logins=Helper(registry, login.helper, login.server)), f"{program} ({self._file})"


def docker_logins(setting: str | None, environ: Mapping[str, str] = os.environ) -> DockerLogins:
    """Open the file that the setting names, else Docker's usual one.

    Args:
        setting: a path; `OFF` for no logins; None for ``config.json`` in ``$DOCKER_CONFIG``, else in ``~/.docker``.
        environ: the environment.
    """
    file = config_file(setting, environ)
    return DockerLogins(file, required=setting not in (None, OFF))


def config_file(setting: str | None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the file that the setting names, else Docker's usual one, whether it exists or not; None for no logins.

    Args:
        setting: as for `docker_logins`.
        environ: the environment.
    """
    if setting == OFF:
        return None
    if setting is not None:
        return Path(setting)
    directory = environ.get("DOCKER_CONFIG")
    try:
        home = Path(directory) if directory else Path.home() / ".docker"
    except RuntimeError:
        # A user the machine has no name for, as containers have them.
        return None
    return home / "config.json"


def _read(file: Path) -> str:
    with file.open("rb") as opened:
        data = opened.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError(f"it is larger than {_MAX_BYTES // 1024} KiB")
    return data.decode("utf-8-sig")
