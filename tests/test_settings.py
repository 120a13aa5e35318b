from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from dotenv import dotenv_values

from replicator.errors import ConfigError
from replicator.networks import split_address
from replicator.schedule import Cron, Every
from replicator.settings import Settings, load_settings, unknown_variables, variables

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting comes from the machine the tests run on."""
    import os

    for name in list(os.environ):
        if name.startswith("REPLICATOR_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("REPLICATOR_SECRETS_DIR", str(tmp_path / "secrets"))
    monkeypatch.chdir(tmp_path)


def port(settings: Settings) -> int:
    return split_address(settings.listen)[1]


def test_everything_has_a_default() -> None:
    settings = load_settings()
    assert settings.listen == "0.0.0.0:8080"
    assert settings.webhook_token is None
    assert settings.webhook_anonymous is False


def test_options_win_over_environment_over_dotenv_over_secret_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "replicator_listen").write_text("127.0.0.1:1\n")
    assert port(load_settings()) == 1
    (tmp_path / ".env").write_text("REPLICATOR_LISTEN=127.0.0.1:2\nHARBOR_PASSWORD=x\n")
    assert port(load_settings()) == 2
    monkeypatch.setenv("REPLICATOR_LISTEN", "127.0.0.1:3")
    assert port(load_settings()) == 3
    assert port(load_settings(listen="127.0.0.1:4")) == 4
    assert port(load_settings(listen=None)) == 3


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATOR_CONFIG", "")
    assert load_settings().config is None


def test_a_secret_from_a_file_has_no_line_end_and_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "replicator_webhook_token").write_text("s3cret-value\n")
    settings = load_settings()
    assert settings.webhook_token is not None
    assert settings.webhook_token.get_secret_value() == "s3cret-value"
    assert "s3cret" not in repr(settings)


def test_every_wrong_setting_is_told_at_once_by_its_name_and_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATOR_CONCURRENCY", "hunter2")
    monkeypatch.setenv("REPLICATOR_LISTEN", "nowhere")
    with pytest.raises(ConfigError) as caught:
        load_settings(log_level="loud")
    assert {problem.path for problem in caught.value.problems} == {
        "REPLICATOR_CONCURRENCY",
        "REPLICATOR_LISTEN",
        "--log-level",
    }
    assert "hunter2" not in str(caught.value)


def test_a_reconcile_is_due_once_a_day_unless_it_is_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().schedule == Every(86_400)
    monkeypatch.setenv("REPLICATOR_RECONCILE", "*/5 * * * *")
    assert load_settings().schedule == Cron("*/5 * * * *")
    assert load_settings(reconcile="off").schedule is None
    with pytest.raises(ConfigError, match=r"--reconcile: .*17 3 \* \* \*"):
        load_settings(reconcile="often")
    monkeypatch.setenv("REPLICATOR_RECONCILE", "0.5s")
    with pytest.raises(ConfigError, match="REPLICATOR_RECONCILE"):
        load_settings()


@pytest.mark.parametrize("address", ["8080", "host", "host:", "host:x", "::1:80", "host:70000"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="--listen"):
        load_settings(listen=address)


@pytest.mark.parametrize(
    ("address", "host", "number"),
    [("[::]:8080", "::", 8080), (":80", "", 80), ("127.0.0.1:0", "127.0.0.1", 0), ("localhost:1", "localhost", 1)],
)
def test_addresses(address: str, host: str, number: int) -> None:
    assert split_address(load_settings(listen=address).listen) == (host, number)


def test_a_misspelt_variable_is_told_with_what_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATOR_REDISURL", "redis://x")
    (problem,) = unknown_variables()
    assert problem.path == "REPLICATOR_REDISURL"
    assert "REPLICATOR_REDIS_URL" in problem.message


@pytest.mark.parametrize(
    "name",
    [
        "REPLICATOR_PORT",
        "REPLICATOR_SERVICE_HOST",
        "REPLICATOR_SERVICE_PORT_HTTP",
        "REPLICATOR_PORT_8080_TCP_ADDR",
        "REPLICATOR_REDIS_PORT_6379_TCP",
        "REPLICATOR_REDIS_SERVICE_HOST",
    ],
)
def test_what_kubernetes_sets_for_a_service_is_no_setting(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "tcp://10.0.0.1:8080")
    assert unknown_variables() == []
    load_settings()
    assert name.removeprefix("REPLICATOR_").lower() not in Settings.model_fields


def test_variables_for_the_rules_come_from_all_three_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "A").write_text("secret\n")
    (tmp_path / "secrets" / "B").write_text("secret\n")
    (tmp_path / ".env").write_text("B=dot$env\nC='dot ${A}'\n")
    monkeypatch.setenv("C", "environment")
    found = variables()
    assert (found["A"], found["B"], found["C"]) == ("secret", "dot$env", "environment")


def test_a_secret_file_that_is_no_text_is_told_without_what_is_in_it(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "replicator_webhook_token").write_bytes(b"hunter2\xff")
    with pytest.raises(ConfigError, match="webhook_token") as caught:
        load_settings()
    assert str(tmp_path / "secrets") in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_an_empty_name_of_the_secrets_directory_is_not_the_working_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REPLICATOR_SECRETS_DIR", "")
    (tmp_path / "replicator_listen").write_text("nowhere")
    (tmp_path / "A").write_text("no secret")
    assert load_settings().listen == "0.0.0.0:8080"
    assert "A" not in variables()


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("250", 250), ("unlimited", None), (" Unlimited ", None)])
def test_the_limit_of_replacements_is_a_number_or_unlimited(
    monkeypatch: pytest.MonkeyPatch, text: str, number: int | None
) -> None:
    assert load_settings().reconcile_replaces == 100
    monkeypatch.setenv("REPLICATOR_RECONCILE_REPLACES", text)
    assert load_settings().reconcile_replaces == number
    for wrong in ("off", "-1", "10%"):
        monkeypatch.setenv("REPLICATOR_RECONCILE_REPLACES", wrong)
        with pytest.raises(ConfigError, match="write a number of tags"):
            load_settings()


def test_a_prefix_may_be_in_braces_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLICATOR_REDIS_PREFIX", "{replicator}")
    assert load_settings().redis_prefix == "{replicator}"
    monkeypatch.setenv("REPLICATOR_REDIS_PREFIX", "{replicator")
    with pytest.raises(ConfigError, match="REPLICATOR_REDIS_PREFIX"):
        load_settings()


def test_a_user_without_a_home_has_a_state_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # what it does where the user has no entry
    assert load_settings().state_dir.is_absolute()


def test_a_byte_order_mark_hides_no_setting(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("\ufeffREPLICATOR_LISTEN=127.0.0.1:2\n")
    assert port(load_settings()) == 2
    (tmp_path / ".env").write_text("\ufeffREPLICATOR_LISTN=127.0.0.1:2\n")
    assert [problem.path for problem in unknown_variables()] == ["REPLICATOR_LISTN"]


def test_limits_are_read_as_timetables_and_every_problem_of_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().upload_limits.general.is_unlimited
    monkeypatch.setenv("REPLICATOR_BANDWIDTH", "40Mbit/s; acr.example.com=08:00-20:00 UTC 1MB/s, else 2MB/s")
    monkeypatch.setenv("REPLICATOR_REQUESTS_PER_SECOND", "50")
    settings = load_settings()
    assert settings.upload_limits.general.otherwise.rate == 5e6
    assert settings.upload_limits.of("acr.example.com").otherwise.rate == 2e6
    assert settings.request_limits.general.otherwise.rate == 50
    monkeypatch.setenv("REPLICATOR_BANDWIDTH", "Mop 08:00-20:00 20Mbps, else unlimited")
    monkeypatch.setenv("REPLICATOR_REQUESTS_PER_SECOND", "many")
    with pytest.raises(ConfigError) as caught:
        load_settings()
    (bandwidth, requests) = caught.value.problems
    assert (bandwidth.path, requests.path) == ("REPLICATOR_BANDWIDTH", "REPLICATOR_REQUESTS_PER_SECOND")
    assert "'Mop'" in bandwidth.message
    assert "20Mbit/s for bits" in bandwidth.message


@pytest.mark.parametrize(("value", "seconds"), [(None, None), ("", None), ("3600", 3600.0)])
def test_a_copy_may_stand_still_for_any_time_unless_it_is_said_otherwise(
    monkeypatch: pytest.MonkeyPatch, value: str | None, seconds: float | None
) -> None:
    if value is not None:
        monkeypatch.setenv("REPLICATOR_COPY_TIMEOUT", value)
    assert load_settings().copy_timeout == seconds


@pytest.mark.parametrize("value", ["off", "OFF", "0", "0.0", "false", "False", "no", "none"])
def test_every_word_for_off_switches_a_limit_off(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    for name in ("COPY_TIMEOUT", "BANDWIDTH", "REQUESTS_PER_SECOND"):
        monkeypatch.setenv(f"REPLICATOR_{name}", value)
    found = load_settings()
    assert found.copy_timeout is None
    assert found.upload_limits.general.is_unlimited
    assert found.request_limits.general.is_unlimited


@pytest.mark.parametrize("value", ["off", "false", "no"])
def test_off_is_understood_as_yaml_hands_it_on(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    for name in ("RECONCILE", "DOCKER_CONFIG"):
        monkeypatch.setenv(f"REPLICATOR_{name}", value)
    assert load_settings().schedule is None
    assert load_settings().docker_config == "off"


def test_a_long_dotenv_is_parsed_once_and_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("".join(f"NAME_{number}=x\n" for number in range(300)))
    parsed = Counter[str]()
    parse = dotenv_values

    def reading(*arguments: Any, **options: Any) -> Any:
        parsed["file"] += 1
        return parse(*arguments, **options)

    monkeypatch.setattr("replicator.env_file.dotenv_values", reading)
    load_settings()
    assert variables()["NAME_299"] == "x"
    assert unknown_variables() == []
    assert parsed.total() == 1
    (tmp_path / ".env").write_text("OTHER=changed\n")
    assert variables()["OTHER"] == "changed"
    assert "NAME_1" not in variables()


def test_a_setting_in_dotenv_may_name_variables_and_an_empty_variable_does_not_override_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOST", "127.0.0.2")
    monkeypatch.setenv("REPLICATOR_LISTEN", "")
    (tmp_path / ".env").write_text("PORT=4\nreplicator_listen=${HOST}:${PORT}\nREPLICATOR_REDIS_PREFIX=\n")
    assert load_settings().listen == "127.0.0.2:4"
    assert load_settings().redis_prefix == "replicator"
