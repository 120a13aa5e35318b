"""Docker's own logins: its ``config.json``, and the credential helpers that it names."""

from replicator.docker.logins import OFF, DockerLogins, config_file, docker_logins

__all__ = ["OFF", "DockerLogins", "config_file", "docker_logins"]
