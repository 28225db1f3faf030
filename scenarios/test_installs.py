"""What a start installs that nobody asked it to, and how often (anomalyco/opencode#48147, #2476)."""

from contextlib import suppress

import pytest

from pytest_ocrepro import NotReachedError, Trial, for_ever, text

AGAIN = "anomalyco/opencode#48147"
UNASKED = "anomalyco/opencode#2476"
PATIENCE_S = 90.0
LIMIT_S = 20.0
OWN = {"opencode-copilot-auth": "0.0.5", "opencode-anthropic-auth": "0.0.2"}  # as 1.0.61 wants them


def start_twice(ocrepro: Trial, npmrc: str) -> None:
    """A start that installs what a plugin needs, and another one; that one must ask the registry nothing."""
    (ocrepro.sandbox.root / "home/.npmrc").write_text(npmrc)
    ocrepro.registry.publish("@opencode-ai/plugin", ocrepro.build.version)
    ocrepro.project.add_plugin()
    ocrepro.provider.script(for_ever(text("done")))
    if not ocrepro.expect(ocrepro.run("hi", deadline_s=PATIENCE_S)).to_complete():
        return
    if not ocrepro.registry.requests():
        pytest.skip("this build installs nothing for a plugin in the project")
    served = [one.path for one in ocrepro.registry.requests() if one.reply == "served"]
    ocrepro.claim("the first start installs", held=any(path.endswith(".tgz") for path in served), because=f"{served}")
    before = len(ocrepro.registry.requests())
    ocrepro.expect(ocrepro.run("hi", deadline_s=PATIENCE_S)).to_complete()
    asked = [one.path for one in ocrepro.registry.requests()[before:]]
    ocrepro.claim(
        "the second start asks the registry nothing",
        held=not asked,
        because=", ".join(asked) or "it did not",
        finding="installs-again" if asked else "",
    )


@pytest.mark.ocrepro(
    issue=AGAIN,
    profile="ci",
    title="second start without a lock file of npm",
    known={"1.14.48": "6/6", "1.15.4": "6/6", "1.18.34": "8/8"},
)
def test_second_start_without_a_lock_file(ocrepro: Trial) -> None:
    """A start must not install again what an earlier one has installed, whatever npm is told to write down.

    ``package-lock=false`` stands in the user's .npmrc. Refuted by a second start that asks the registry nothing. What
    we found: 1.14.48 and 1.18.34 ask for the package twice more at the second start, and for advisories; with a lock
    file they ask nothing.
    """
    start_twice(ocrepro, "package-lock=false\n")


@pytest.mark.ocrepro(issue=AGAIN, profile="ci", control=True)
def test_second_start_with_a_lock_file(ocrepro: Trial) -> None:
    """Control: the same two starts, and npm writes its lock file as ever."""
    start_twice(ocrepro, "")


def must_begin(ocrepro: Trial) -> None:
    """A start must come to its session; builds of that time fetch what they ask a model with from npm as well."""
    run = ocrepro.run("hi", deadline_s=PATIENCE_S)
    session = ocrepro.at_milestone(run, "session-created")

    def begun() -> bool:
        with suppress(NotReachedError):
            session.wait(0.0)
            return True
        return bool(ocrepro.provider.requests())

    with suppress(NotReachedError):
        ocrepro.wait_until(begun, what="a session", timeout_s=LIMIT_S)
    came, paths = begun(), [one.path for one in ocrepro.registry.requests()]
    ocrepro.claim(
        f"it begins its session within {LIMIT_S:g} s",
        held=came,
        because=f"the registry was asked for {', '.join(paths) or 'nothing'}",
        finding="" if came else "slow-start",
        role=run.role,
    )


@pytest.mark.ocrepro(issue=UNASKED, profile="ci", title="start without a plugin and a silent registry")
def test_start_without_a_plugin_and_a_silent_registry(ocrepro: Trial) -> None:
    """A start that was told of no plugin must not wait for the registry.

    Builds of the report's time install a package for plugins, and two plugins of their own, at each cold start.
    Refuted by a session that is begun within 20 s. What we found: 1.0.61 waits for the first of them and begins
    none; 1.14.48 and 1.18.34 ask for that package too, and do not wait for it.
    """
    ocrepro.registry.stall()
    ocrepro.provider.script(for_ever(text("done")))
    must_begin(ocrepro)


@pytest.mark.ocrepro(issue=UNASKED, profile="ci", control=True)
def test_start_without_a_plugin(ocrepro: Trial) -> None:
    """Control: the same start, and a registry that has what builds of that time install."""
    for name, version in {"@opencode-ai/plugin": ocrepro.build.version, **OWN}.items():
        ocrepro.registry.publish(name, version)
    ocrepro.provider.script(for_ever(text("done")))
    must_begin(ocrepro)
