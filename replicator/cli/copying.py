"""``replicator copy`` and ``replicator explain``, for one image."""

from typing import Annotated

import typer
from rich.console import Console

from replicator.cli.choosing import Choice, Platforms, Signatures, chosen
from replicator.cli.options import Auth, Config, Images, Log, LogFormat, LogLevel, Namespace, Registry
from replicator.cli.preparing import given_reference, given_rules, leave, prepared_settings, run
from replicator.settings import variables


def copy(
    source: Annotated[str, typer.Argument(help="What to copy: registry/repository:tag, or @digest.")],
    destination: Annotated[str, typer.Argument(help="Where to: registry/repository:tag.")],
    config: Config = None,
    auth: Auth = None,
    insecure: Annotated[
        list[str] | None, typer.Option(help="A registry whose TLS certificate is not verified, or with plain HTTP.")
    ] = None,
    platform: Platforms = None,
    attestations: Choice = None,
    signatures: Signatures = False,
    log: Log = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> None:
    """Copy one image now, in the foreground; with a rules file, using its credentials, else Docker's."""
    settings = prepared_settings(
        log, quiet=log is None, config=config, auth=auth, log_level=log_level, log_format=log_format
    )
    given = settings.config is not None or settings.auth is not None
    target = given_reference(destination, "DESTINATION")
    credentials = None
    if given:
        from replicator.docker import docker_logins
        from replicator.rules import load_credentials

        credentials = load_credentials(
            settings.config,
            auth=settings.auth,
            environ=variables(),
            elsewhere=docker_logins(settings.docker_config),
        )
    from replicator.foreground import copy_one

    run(
        copy_one(
            settings,
            credentials,
            given_reference(source, "SOURCE"),
            target,
            options=chosen(target, platform, attestations, signatures),
            insecure=insecure or (),
            out=Console(),
        )
    )


def explain(
    reference: Annotated[str, typer.Argument(help="An image at the source: registry/repository:tag.")],
    config: Config = None,
    auth: Auth = None,
    images: Images = None,
    registry: Registry = None,
    namespace: Namespace = None,
) -> None:
    """Say which rules match an image and where it would go; nothing is contacted."""
    settings = prepared_settings(None, quiet=True, config=config, auth=auth, images=images)
    rules = given_rules(settings, registry, namespace)
    from replicator.foreground import explain_reference

    leave(explain_reference(rules, given_reference(reference, "REFERENCE"), out=Console()))
