"""Harbor's projects, users and robot accounts, and their permissions."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.standins.tokens import ALL, READ, WRITE, Account, errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web

    from tests.standins.tokens import Credentials

_ROBOT = "robot$"


@dataclass(frozen=True, slots=True)
class Project:
    """A project.

    Attributes:
        id: from 1, in the order they were made.
        name: the first part of its repositories' names.
        public: whether anyone may pull.
    """

    id: int
    name: str
    public: bool


class Projects:
    """All projects, and what each account may do in them.

    Args:
        users: secrets or accounts by name. ``robot$project+name`` is bound to its project and ``robot$name`` is not;
            a robot given as a secret may pull and push, a user may do everything.
        projects: whether each is public.

    Attributes:
        database_away: PostgreSQL can't be asked: every login is taken for none, and every token is refused.
        lock_seconds: for how long a wrong password locks the name of a user, never of a robot; Harbor: 1.5.
        locked: by the name of a user, until when it is locked (`time.monotonic`).
        refused: the name in each request with a password that was taken for none.
    """

    def __init__(self, users: Mapping[str, str | Account], projects: Mapping[str, bool]) -> None:
        self.accounts = {
            name: user
            if isinstance(user, Account)
            else Account(user, WRITE, administers=False)
            if name.startswith(_ROBOT)
            else Account(user)
            for name, user in users.items()
        }
        self.database_away = False
        self.lock_seconds = 0.0
        self.refused: list[str] = []
        self.locked: dict[str, float] = {}
        self.by_name: dict[str, Project] = {}
        for name, public in projects.items():
            self.add(name, public=public)

    def add(self, name: str, *, public: bool = False) -> Project:
        """Create a project."""
        project = Project(len(self.by_name) + 1, name, public)
        self.by_name[name] = project
        return project

    def find(self, name_or_id: str, request: web.BaseRequest) -> Project | None:
        """Return the project an API request means: digits are a number unless a header says they are a name."""
        if name_or_id.isdigit() and request.headers.get("X-Is-Resource-Name", "").lower() != "true":
            return next((each for each in self.by_name.values() if each.id == int(name_or_id)), None)
        return self.by_name.get(name_or_id)

    def login(self, credentials: Credentials) -> str:
        """Return the account's name, or nothing: a wrong password makes an anonymous request, as in Harbor."""
        if credentials.scheme != "basic":
            return ""
        name, now = credentials.username, time.monotonic()
        is_locked = now < self.locked.get(name, 0.0)
        if credentials.account(self.accounts) is not None and not is_locked and not self.database_away:
            return name
        self.refused.append(name)
        if not is_locked and not name.startswith(_ROBOT):
            self.locked[name] = now + self.lock_seconds
        return ""

    def outage(self, request: web.BaseRequest) -> web.Response | None:
        """Return the answer of the registry while the database is away: it can't look up the project then."""
        if not self.database_away or "Authorization" not in request.headers:
            return None
        words = (
            "failed to connect to `user=postgres database=registry`: 10.0.0.5:5432 (harbor-database): dial error: "
            "dial tcp 10.0.0.5:5432: connect: connection refused"
        )
        return errors(401, "UNAUTHORIZED", words, headers={"WWW-Authenticate": ""})

    def actions(self, subject: str, repository: str) -> frozenset[str]:
        """Return what an account, or nobody, may do in a repository or project."""
        project = self.by_name.get(repository.partition("/")[0])
        if project is None:
            return frozenset()
        account = self.accounts.get(subject)
        own = account.actions if account is not None and self._covers(subject, project.name) else frozenset()
        return (own | (READ if project.public else frozenset())) & ALL

    def administers(self, subject: str, project: Project) -> bool:
        """Tell whether an account may manage a project's webhook policies."""
        account = self.accounts.get(subject)
        return account is not None and account.administers and self._covers(subject, project.name)

    def is_system_administrator(self, subject: str) -> bool:
        """Tell whether an account may list the whole catalog."""
        return subject in self.accounts and not subject.startswith(_ROBOT)

    @staticmethod
    def _covers(subject: str, project: str) -> bool:
        if not subject.startswith(_ROBOT):
            return True
        bound, plus, _ = subject.removeprefix(_ROBOT).partition("+")
        return not plus or bound == project
