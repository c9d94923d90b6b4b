"""What a RUN needs, started once per build and only when one must run."""

from __future__ import annotations

import contextlib
import os

from builder.errors import HostUnsupportedError, SandboxError
from builder.resources import NO_LIMITS, Limits
from builder.solver.exec_op import Runtime
from cache.hints import TYPE_CHECKING
from cache.value import replace, value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from builder.sandbox.emulators import Emulator
    from builder.sandbox.host import Tier
    from builder.sandbox.launcher import StepRunner
    from builder.sandbox.spec import Sandbox
    from builder.state import State
    from cache.archive.tree import Tree
    from cache.layers import ArrivingLayers
    from cache.spec.oci import Layer


def _unheard(text: str) -> None:
    """Nobody wants to be told."""


@value
class Wishes:
    """What the steps of a build are to have beyond what each of them says.

    `runtime` is the name or path of an OCI runtime, "" for our own sandbox. `apart` says that steps
    may have a network apart from the host's, `ports` are (host's, step's) TCP ports to publish
    from it. `foreign` says that programs of other machines may have to run. `notice` is told
    what cannot be had as asked for.
    """

    limits: Limits = NO_LIMITS
    apart: bool = False
    ports: tuple[tuple[int, int], ...] = ()
    foreign: bool = False
    runtime: str = ""
    notice: Callable[[str], None] = _unheard


def check(sandbox: str, *, runtime: str, apart: bool) -> None:
    """Refuse what can be seen to be impossible without trying anything, also where no step will run.

    Raises:
        HostUnsupportedError: these cannot be had together, or the OCI runtime is not there.
    """
    _check_network(sandbox, apart=apart)
    if runtime:
        from builder.sandbox import ociprogram  # noqa: PLC0415 - only when asked

        ociprogram.find(runtime)
        if sandbox in {"single", "chroot", "emulate"}:
            msg = f"--sandbox={sandbox} starts no OCI runtime"
            raise HostUnsupportedError(msg, hint="leave out --sandbox or --runtime")


def _check_network(tier: str, *, apart: bool) -> None:
    if apart and tier in {"chroot", "emulate"}:
        msg = f"--network=sandbox needs namespaces, which the {tier} sandbox has not"
        raise HostUnsupportedError(msg, hint="choose --network host")


class RuntimeStarter:
    """Enters the namespace, forks the launcher and opens the snapshots; closed with the build."""

    def __init__(
        self,
        state: State,
        epoch: int | None = None,
        sandbox: str = "auto",
        wishes: Wishes = Wishes(),
    ) -> None:
        """Remember the state; start nothing. With an epoch, RUN layers hold no later time.

        `sandbox` is a tier's name, "auto" for the best this host allows, or "none".
        """
        self._epoch = epoch
        self._state = state
        self._asked = sandbox
        self._wishes = wishes
        self._stack = contextlib.ExitStack()
        self._runtime: Runtime | None = None
        self._changes = ""
        self.cancelled = False
        self.owners = (
            ""  # whose ids files get; "" for those that steps see, as far as there are ids
        )

    def start(self, merged: Callable[[Sequence[Layer]], Tree]) -> None:
        """Start; `merged` gives the merged index of a stack. Must be called while this process has a single thread.

        Raises:
            HostUnsupportedError: this host cannot run steps.
        """
        if self._asked == "none":
            msg = "RUN is switched off by --sandbox=none"
            raise HostUnsupportedError(
                msg, hint="leave the flag out: `pybuild doctor` says what works"
            )
        limited = self._limited()
        scratch = f"{self._state.root}/scratch"
        os.makedirs(scratch, mode=0o700, exist_ok=True)
        layers: ArrivingLayers = self._state.layers
        if self._epoch is not None:
            from builder.snapshot.clamped import ClampedLayers  # noqa: PLC0415 - rarely asked for

            layers = ClampedLayers(layers, self._epoch)
        tier = self._tier(scratch)
        plain = tier in {"chroot", "emulate"}
        self.owners = "one" if tier in {"single", "emulate"} else ""
        _check_network(tier, apart=self._wishes.apart)
        if plain:
            runtime = self._start_plain(scratch, layers, merged, chroot=tier == "chroot")
        elif tier == "single":
            runtime = self._start_single(scratch, layers, merged)
        else:
            runtime = self._start_namespaces(scratch, layers, merged)
        self._runtime = limited(self._connected(runtime))

    def _tier(self, scratch: str) -> str:
        """The tier asked for, else the best that this host allows."""
        from builder.sandbox import tiers  # noqa: PLC0415 - only for RUN
        from builder.sandbox.host import Tier  # noqa: PLC0415 - the same

        memos = self._state.memos
        if self._asked != "auto":
            choice = tiers.require(Tier(self._asked), scratch, memos)
            self._changes = choice.changes
            return choice.tier
        choice = tiers.choose(scratch, memos)
        if self._wishes.runtime and choice.tier != "userns":  # says what a runtime lacks
            choice = tiers.require(Tier.USERNS, scratch, memos, asked="--runtime")
        self._changes = choice.changes
        tier = choice.tier
        if tier == "chroot" and self._wishes.foreign and not self._are_registered():
            return "emulate"
        if (
            tier in {"userns", "single"}
            and self._wishes.foreign
            and not self._can_register(tier, scratch)
        ):
            self._wishes.notice(
                "this kernel lets no namespace have emulators of its own (Linux 6.7 does):"
                " steps are emulated"
            )
            return "emulate"
        return tier

    def _can_register(self, tier: Tier, scratch: str) -> bool:
        """Whether namespaces do for programs of other machines; true where nothing would."""
        from builder.sandbox.emulators import registered  # noqa: PLC0415 - rarely needed
        from builder.sandbox.trial import try_registering  # noqa: PLC0415 - the same

        known = self._emulators()
        return not known or registered(known) or try_registering(scratch, tier).works

    def _are_registered(self) -> bool:
        """Whether the kernel runs programs of other machines by itself, or nothing would."""
        from builder.sandbox.emulators import registered  # noqa: PLC0415 - rarely needed

        known = self._emulators()
        return not known or registered(known)

    def _limited(self) -> Callable[[Runtime], Runtime]:
        """Prepare what limits steps; must come before anything is forked, which would stay behind."""
        limits = self._wishes.limits
        if limits == NO_LIMITS:
            return lambda runtime: runtime
        from builder.sandbox.cgroup import Cgroups  # noqa: PLC0415 - only when asked
        from builder.sandbox.limited import LimitedSandbox  # noqa: PLC0415

        cgroups = Cgroups(limits)
        self._stack.callback(cgroups.close)

        def limit(runtime: Runtime) -> Runtime:
            sandbox = LimitedSandbox(runtime.sandbox, limits, cgroups)
            if sandbox.warning:
                self._wishes.notice(f"warning: {sandbox.warning}")
            return replace(runtime, sandbox=sandbox)

        return limit

    def _connected(self, runtime: Runtime) -> Runtime:
        """Have steps connected whose network is apart."""
        if not self._wishes.apart:
            return runtime
        from builder.sandbox import network_link as link  # noqa: PLC0415 - only when asked

        directory = f"{self._state.root}/networks"
        networks = link.IsolatedNetworks(directory, link.find_connector(self._wishes.ports))
        return replace(runtime, sandbox=link.ConnectedSandbox(runtime.sandbox, networks))

    def _settle_changes(self) -> None:
        """Have the changes of steps kept where the tier's trial found that they can be."""
        if not self._changes:
            return
        from builder.sandbox import uppers  # noqa: PLC0415 - rarely needed

        uppers.settle(self._changes, f"{self._state.root}/active")
        if advice := uppers.advice(self._state.root, self._changes):
            self._wishes.notice(advice)

    def _forget_tier(self, scratch: str) -> None:
        """What was remembered of this host holds no more: try again the next time."""
        from builder.sandbox import tiers  # noqa: PLC0415 - only when something is wrong

        tiers.forget(scratch, self._state.memos)

    def _start_namespaces(
        self, scratch: str, layers: ArrivingLayers, merged: Callable[[Sequence[Layer]], Tree]
    ) -> Runtime:
        from builder.sandbox.launch import LaunchedSandbox  # noqa: PLC0415 - only for RUN
        from builder.sandbox.namespace import enter_namespace  # noqa: PLC0415
        from builder.snapshot.overlay import OverlaySnapshotter  # noqa: PLC0415
        from builder.snapshot.seals import Boot  # noqa: PLC0415
        from cache.snapshotnames import SqliteSnapshotNames  # noqa: PLC0415

        try:
            enter_namespace()
            self._settle_changes()
        except HostUnsupportedError:
            self._forget_tier(scratch)
            raise
        if self._wishes.foreign:
            self._register_emulators()
        sandbox: Sandbox = LaunchedSandbox.start(scratch, *self._step_runner())
        self._stack.callback(sandbox.close)
        root, names = self._state.root, SqliteSnapshotNames(self._state.database)
        snapshotter = OverlaySnapshotter(root, layers, names, merged=merged, boot=Boot.current())
        self._stack.enter_context(snapshotter)
        if self._changes.startswith("/"):
            snapshotter.sweep()  # on a volume prune does not find what killed builders left
        return Runtime(sandbox, snapshotter)

    def _start_single(
        self, scratch: str, layers: ArrivingLayers, merged: Callable[[Sequence[Layer]], Tree]
    ) -> Runtime:
        from builder.sandbox.host import Tier  # noqa: PLC0415 - only for RUN
        from builder.sandbox.launch import LaunchedSandbox  # noqa: PLC0415
        from builder.sandbox.namespace import enter_namespace  # noqa: PLC0415
        from builder.snapshot.overlay import OverlaySnapshotter  # noqa: PLC0415
        from builder.snapshot.seals import Boot  # noqa: PLC0415
        from cache.snapshotnames import SINGLE, SqliteSnapshotNames  # noqa: PLC0415

        try:
            enter_namespace(Tier.SINGLE)
        except HostUnsupportedError:
            self._forget_tier(scratch)
            raise
        if self._wishes.foreign:
            self._register_emulators()
        sandbox: Sandbox = LaunchedSandbox.start_single(scratch)
        self._stack.callback(sandbox.close)
        root, names = self._state.root, SqliteSnapshotNames(self._state.database, SINGLE)
        snapshotter = OverlaySnapshotter(
            root, layers, names, merged=merged, keep_owner=False, boot=Boot.current()
        )
        self._stack.enter_context(snapshotter)
        return Runtime(sandbox, snapshotter)

    def _step_runner(self) -> tuple[StepRunner, ...]:
        """What runs each step, where it is not our own init."""
        if not self._wishes.runtime:
            return ()
        from builder.sandbox import oci, ociprogram  # noqa: PLC0415 - only when asked

        return (oci.runner(ociprogram.find(self._wishes.runtime)),)

    def _emulators(self) -> tuple[Emulator, ...]:
        """What runs programs of other machines, where some may have to run."""
        if not self._wishes.foreign:
            return ()
        from builder.sandbox import emulators  # noqa: PLC0415 - rarely needed

        return emulators.emulators(os.uname().machine)

    def _register_emulators(self) -> None:
        from builder.sandbox import emulators  # noqa: PLC0415 - rarely needed

        directory = f"{self._state.root}/emulators"
        os.makedirs(directory, mode=0o700, exist_ok=True)
        emulators.register(self._emulators(), directory)

    def _start_plain(
        self,
        scratch: str,
        layers: ArrivingLayers,
        merged: Callable[[Sequence[Layer]], Tree],
        *,
        chroot: bool,
    ) -> Runtime:
        from builder.sandbox.launch import LaunchedSandbox  # noqa: PLC0415 - only for RUN
        from builder.snapshot.plain import PlainSnapshotter  # noqa: PLC0415
        from builder.snapshot.seals import Boot  # noqa: PLC0415

        sandbox: Sandbox = (
            LaunchedSandbox.start_chroot(scratch)
            if chroot
            else LaunchedSandbox.start_plain(scratch, self._emulators())
        )
        self._stack.callback(sandbox.close)
        root, boot = self._state.root, Boot.current()
        snapshotter = PlainSnapshotter(root, layers, merged=merged, keep_owner=chroot, boot=boot)
        self._stack.enter_context(snapshotter)
        return Runtime(sandbox, snapshotter)

    @property
    def runtime(self) -> Runtime:
        """What was started."""
        if self._runtime is None:
            msg = "a step needs the sandbox, which was not started"
            raise SandboxError(msg)
        return self._runtime

    def cancel(self) -> None:
        """Kill running steps."""
        self.cancelled = True
        if self._runtime is not None:
            self._runtime.sandbox.cancel()

    def close(self) -> None:
        """End everything that was started."""
        self._stack.close()
