# SPDX-License-Identifier: GPL-3.0-or-later
"""What clients may set, and how it becomes the options of a build."""

from dataclasses import replace

import pytest

from builder.options import BuildMode
from store.errors import StoreError
from storedaemon.config import COMMAND_LINE, Source, make_config
from storedaemon.session_options import (
    MAX_SETTINGS,
    SessionOptions,
    apply_settings,
    build_options,
)

EVERYBODY = [
    ("build-timeout", "10"),
    ("build-max-silent-time", "20"),
    ("build-max-jobs", "3"),
    ("build-cores", "4"),
    ("build-repeat", "1"),
    ("multiplexed-build-output", "true"),
]


@pytest.mark.parametrize("trusted", [True, False])
def test_some_settings_are_anybodys(trusted: bool):
    """The settings about one's own builds need no trust."""
    options = apply_settings(SessionOptions(), EVERYBODY, trusted=trusted)
    assert options == SessionOptions(
        timeout=10,
        max_silent_time=20,
        max_jobs=3,
        cores=4,
        repeat=1,
        multiplexed_build_output=True,
    )


def test_other_settings_need_trust():
    """What an untrusted client sends is kept where nothing acts on it."""
    pairs = [("substitute-urls", "https://example.org"), ("build-use-chroot", "false")]
    assert apply_settings(SessionOptions(), pairs, trusted=True).settings == dict(pairs)
    assert apply_settings(SessionOptions(), pairs, trusted=False).settings == {
        "untrusted-substitute-urls": "https://example.org",
        "untrusted-build-use-chroot": "false",
    }


def test_later_settings_add_to_earlier_ones():
    """A second message changes what it names and nothing else."""
    first = apply_settings(SessionOptions(), [("build-cores", "4"), ("a", "1")], trusted=True)
    second = apply_settings(first, [("build-cores", "2"), ("b", "2")], trusted=True)
    assert second == SessionOptions(cores=2, settings={"a": "1", "b": "2"})
    assert first == SessionOptions(cores=4, settings={"a": "1"})


TRUSTED_ONLY = [
    ("build-fallback", "true", "fallback", True),
    ("build-use-substitutes", "false", "use_substitutes", False),
    ("build-keep-log", "false", "keep_log", False),
    ("build-cache-failure", "true", "cache_failures", True),
    ("build-max-log-size", "1000", "max_log_size", 1000),
]


@pytest.mark.parametrize(("name", "value", "attribute", "meaning"), TRUSTED_ONLY)
def test_trusted_clients_may_change_more(name: str, value: str, attribute: str, meaning: object):
    """An untrusted one's wish is kept, unread, and changes nothing."""
    trusted = apply_settings(SessionOptions(), [(name, value)], trusted=True)
    assert trusted == replace(SessionOptions(), **{attribute: meaning})
    untrusted = apply_settings(SessionOptions(), [(name, "nonsense")], trusted=False)
    assert untrusted == SessionOptions(settings={f"untrusted-{name}": "nonsense"})


@pytest.mark.parametrize(
    "name", ["gc-keep-outputs", "build-use-chroot", "build-poll-interval", "build-keep-log"]
)
def test_settings_of_a_known_form_are_checked(name: str):
    """The reference refuses other values, too, whatever the setting does."""
    with pytest.raises(StoreError, match=f"`{name}'") as caught:
        apply_settings(SessionOptions(), [(name, "maybe")], trusted=True)
    assert caught.value.reason == "invalid-setting"


def test_a_prefix_does_not_make_a_setting_trusted():
    """Nobody can send under the name of what another could not."""
    options = apply_settings(
        SessionOptions(), [("untrusted-build-keep-log", "false")], trusted=False
    )
    assert options.settings == {"untrusted-untrusted-build-keep-log": "false"}


@pytest.mark.parametrize("value", ["", "x", "-1", "1.5", "٣", "99999999999", "4294967295", " 1"])
def test_numbers_must_be_numbers(value: str):
    """The error is the one that Guix's clients know."""
    with pytest.raises(StoreError) as caught:
        apply_settings(SessionOptions(), [("build-timeout", value)], trusted=True)
    assert caught.value.message == (
        "configuration setting `build-timeout' should have an integer value"
    )
    assert caught.value.reason == "invalid-setting"


def test_flags_must_be_true_or_false():
    """Yes is not true."""
    with pytest.raises(StoreError, match="should be either `true' or `false', not `yes'"):
        apply_settings(SessionOptions(), [("multiplexed-build-output", "yes")], trusted=True)


def test_settings_are_bounded():
    """A client cannot fill memory with names."""
    pairs = [(f"name-{number}", "") for number in range(MAX_SETTINGS + 1)]
    with pytest.raises(StoreError, match="at most"):
        apply_settings(SessionOptions(), pairs, trusted=False)


def test_the_client_overrides_the_daemon_and_silence_leaves_it():
    """Zero is something said; None is not."""
    config = make_config(
        [Source(COMMAND_LINE, {"timeout": "60", "max-silent-time": 5, "cores": 2, "rounds": 3})]
    )
    unsaid = build_options(SessionOptions(), config, BuildMode.NORMAL)
    assert (unsaid.timeout, unsaid.max_silent_time, unsaid.cores, unsaid.rounds) == (60, 5, 2, 3)
    said = build_options(
        SessionOptions(timeout=0, max_silent_time=0, cores=0, repeat=0, keep_failed=True),
        config,
        BuildMode.CHECK,
    )
    assert (said.timeout, said.max_silent_time, said.cores, said.rounds) == (0, 0, 0, 1)
    assert said.keep_failed
    assert said.mode is BuildMode.CHECK


def test_a_trusted_clients_wishes_reach_its_builds():
    """What is not wished for is left to the daemon's settings."""
    config = make_config([])
    unsaid = build_options(SessionOptions(), config, BuildMode.NORMAL)
    assert (unsaid.keep_log, unsaid.max_log_size, unsaid.cache_failures) == (None, None, None)
    pairs = [(name, value) for name, value, *_ in TRUSTED_ONLY]
    said = build_options(
        apply_settings(SessionOptions(), pairs, trusted=True), config, BuildMode.NORMAL
    )
    assert (said.keep_log, said.max_log_size, said.cache_failures) == (False, 1000, True)
