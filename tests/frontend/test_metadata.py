"""The pieces of the metadata fold: environment, ports, signals, history texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.spec.config import Healthcheck
from frontend.dockerfile import history
from frontend.dockerfile.environment import MAX_ENVIRONMENT, Environment, proxies
from frontend.dockerfile.ports import parse_ports
from frontend.dockerfile.problems import Budget, MistakeError
from frontend.dockerfile.signals import is_signal


def environment(*pairs: tuple[str, str]) -> Environment:
    return Environment(pairs, Budget())


def test_environment_env_replaces_in_place() -> None:
    """I01: setting a name again keeps its position."""
    env = environment(("A", "1"), ("B", "2"))
    env.set("A", "3")
    assert env.pairs() == (("A", "3"), ("B", "2"))


def test_environment_arguments_come_after_env() -> None:
    """R05: a process sees ENV first, then ARGs, whatever their order in the file."""
    env = environment(("A", "1"))
    env.declare("X", "x")
    env.set("B", "2")
    assert env.pairs() == (("A", "1"), ("B", "2"), ("X", "x"))


def test_environment_last_instruction_wins() -> None:
    """V34: ARG after ENV changes what RUN sees but not what persists; ENV after ARG changes both."""
    env = environment(("X", "1"))
    env.declare("X", "2")
    assert (dict(env.pairs())["X"], env.persisted["X"]) == ("2", "1")
    env.set("X", "3")
    assert (dict(env.pairs())["X"], env.arguments()) == ("3", (("X", "3"),))


def test_environment_arg_without_value_stays_unset() -> None:
    """V30: an ARG without any value is no variable, yet it is listed in history as empty."""
    env = environment()
    env.declare("X", None)
    assert (env.pairs(), env.arguments()) == ((), (("X", ""),))


def test_environment_child_is_independent() -> None:
    """V35: a stage FROM another one inherits variables and ARGs; later changes stay apart."""
    env = environment(("A", "1"))
    env.declare("X", "x")
    child = env.child()
    child.set("A", "2")
    child.declare("Y", "y")
    assert env.pairs() == (("A", "1"), ("X", "x"))
    assert child.pairs() == (("A", "2"), ("X", "x"), ("Y", "y"))
    assert child.arguments() == (("X", "x"), ("Y", "y"))


@pytest.mark.parametrize(("name", "value"), [("a=b", "x"), ("a\0", "x"), ("a", "\0")])
def test_environment_refuses_what_no_process_can_have(name: str, value: str) -> None:
    """G09: = in names and zero bytes are mistakes."""
    with pytest.raises(MistakeError):
        environment().set(name, value)


def test_environment_is_bounded() -> None:
    """G01: an environment no kernel would accept is refused; shrinking a value gives room again."""
    env = environment()
    env.set("A", "x" * (MAX_ENVIRONMENT - 10))
    with pytest.raises(MistakeError, match="environment"):
        env.set("B", "x" * 20)
    env2 = environment()
    env2.set("A", "x" * (MAX_ENVIRONMENT - 10))
    env2.set("A", "")
    env2.set("B", "x" * 20)
    assert env2.scope["B"] == "x" * 20


def test_environment_copies_spend_the_budget() -> None:
    """G01: many steps over a large environment end in an error, not in full memory."""
    env = Environment([("A", "x" * 100)], Budget(1000))

    def many_steps() -> None:
        for n in range(100):
            env.set("B", str(n))
            env.pairs()

    with pytest.raises(MistakeError, match="too much text"):
        many_steps()


def test_proxies_are_given_in_both_cases() -> None:
    """V42: a proxy build-arg of any case reaches RUN in both, unless the Dockerfile declares it."""
    given_args = {"http_proxy": "p", "No_Proxy": "n", "OTHER": "o"}
    assert proxies(given_args, {"NO_PROXY": "own"}) == (
        ("HTTP_PROXY", "p"),
        ("http_proxy", "p"),
        ("no_proxy", "n"),
    )


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("80", ["80/tcp"]),
        ("80/", ["80/tcp"]),
        ("0", ["0/tcp"]),
        ("80/UDP", ["80/udp"]),
        ("8-9/sctp", ["8/sctp", "9/sctp"]),
        ("127.0.0.1:5:6", ["6/tcp"]),
        ("5-6:6-7", ["6/tcp", "7/tcp"]),
        ("5-6:7", ["7/tcp"]),
        ("[::1]:5:6", ["6/tcp"]),
        ("+80", ["80/tcp"]),
        ("00080", ["80/tcp"]),
    ],
)
def test_ports_are_expanded(text: str, ports: list[str]) -> None:
    """I04: protocols are lower-cased, ranges listed, host parts dropped."""
    assert parse_ports(text) == ports


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("70000", "invalid containerPort: 70000"),
        ("5-3", "invalid containerPort: 5-3"),
        ("-", "invalid containerPort: -"),
        ("", "invalid containerPort: "),
        ("abc", "invalid containerPort: abc"),
        ("٣", "invalid containerPort: ٣"),
        ("9" * 5000, "invalid containerPort: " + "9" * 60),
        ("5:6-7", "invalid ranges specified for container and host ports: 6-7 and 5"),
        ("a:80", "invalid hostPort: a"),
        ("host:80:81", "invalid IP address: host"),
        ("80/foo", 'invalid port: "80/foo": invalid proto: foo'),
    ],
)
def test_ports_wrong_are_named(text: str, message: str) -> None:
    """I04: what is no port is said so, with the text."""
    with pytest.raises(MistakeError) as caught:
        parse_ports(text)
    assert caught.value.message == message


@given(st.text(max_size=20))
def test_ports_accept_or_refuse_any_text(text: str) -> None:
    """I04: any text is a list of ports or a mistake, never another exception."""
    try:
        ports = parse_ports(text)
    except MistakeError:
        return
    assert ports
    assert all(port.partition("/")[2] in {"tcp", "udp", "sctp"} for port in ports)


@pytest.mark.parametrize(
    "text", ["SIGTERM", "sigterm", "TERM", "9", "99", "-1", "+9", "RTMIN+15", "SIGRTMAX-14"]
)
def test_signals_known(text: str) -> None:
    """I08: names with or without SIG in any case, and numbers."""
    assert is_signal(text)


@pytest.mark.parametrize(
    "text", ["", "foo", "0", "00", "-0", "9" * 20, "SIGSIGTERM", "RTMIN+16", "٣"]
)
def test_signals_unknown(text: str) -> None:
    """I08: anything else is no signal."""
    assert not is_signal(text)


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1_500, "1.5µs"),
        (1_000_000, "1ms"),
        (1_500_000_000, "1.5s"),
        (30_000_000_000, "30s"),
        (90_000_000_000, "1m30s"),
        (3_600_000_000_000, "1h0m0s"),
        (3_661_001_000_000, "1h1m1.001s"),
    ],
)
def test_history_durations_are_like_go(nanoseconds: int, text: str) -> None:
    """O11: durations print as Go prints them."""
    assert history.duration(nanoseconds) == text


def test_history_healthcheck_is_the_struct() -> None:
    """O11: HEALTHCHECK shows all fields in order."""
    check = Healthcheck(("CMD-SHELL", "echo hi"), interval=30_000_000_000, retries=3)
    assert history.healthcheck_text(check) == (
        "HEALTHCHECK {Test:[CMD-SHELL echo hi] Interval:30s Timeout:0s StartPeriod:0s"
        " StartInterval:0s Retries:3}"
    )


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("a", '"a"'),
        ('say "x"\\', r'"say \"x\"\\"'),
        ("\n\t\a\x01\x7f", r'"\n\t\a\x01\x7f"'),
        ("é", '"é"'),
        ("\u2028", r'"\u2028"'),
        ("\U000e0001", r'"\U000e0001"'),
    ],
)
def test_history_words_are_quoted_like_go(text: str, quoted: str) -> None:
    """O11: CMD and ENTRYPOINT words are Go string literals."""
    assert history.quote(text) == quoted


def test_history_run_lists_arguments() -> None:
    """O11: a RUN names its ARGs with their number before the command."""
    assert history.run_text(("/bin/sh", "-c", "x"), ()) == "RUN /bin/sh -c x # buildkit"
    assert history.run_text(("x",), (("a", "1"), ("b", ""))) == "RUN |2 a=1 b= x # buildkit"
