"""One run of a strategy: recorded, guarded, saved, and resumed where the run before it ended.

Replies that would ruin the model are left out, and checkpoints are written. A run that resumes a lost one begins at its
last checkpoint. If an app starts several strategies, one after the other, their rounds are counted through. Here is
what is common to Flower's two APIs for strategies; `message_run` and `legacy_run` have the steps of each.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flwr.app import ArrayRecord

from oneflower_appliance.errors import OneflowerError
from oneflower_appliance.log_lines import about
from oneflower_appliance.node_reports import EVALUATE, TRAIN
from oneflower_appliance.round_state import Phase
from oneflower_appliance.run_folder import NODES, Origin
from oneflower_appliance.runs import RunRow
from oneflower_appliance.settings import run_config_keys, uncounted
from oneflower_appliance.training.abandoned import Abandoned
from oneflower_appliance.training.across import compared
from oneflower_appliance.training.beginning import EVALUATE_AGAIN, Beginning
from oneflower_appliance.training.best_models import BestModels
from oneflower_appliance.training.checkpoints import Checkpoints, Progress
from oneflower_appliance.training.departed import Departed
from oneflower_appliance.training.memory import Memory, Watched
from oneflower_appliance.training.node_ids import NodeIds
from oneflower_appliance.training.node_record import NodeRecord
from oneflower_appliance.training.privacy import is_private
from oneflower_appliance.training.quorum import Quorum
from oneflower_appliance.training.recorder import RunRecord, earlier_rounds
from oneflower_appliance.training.site_count import SiteCount
from oneflower_appliance.training.strategies import read_form, variables_of
from oneflower_appliance.training.traffic import Exchange, Traffic
from oneflower_appliance.training.waiting import Waiting, needed_by

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from contextlib import AbstractContextManager

    from flwr.serverapp import Grid

    from oneflower_appliance.training.asked import Asked
    from oneflower_appliance.training.node_record import Told
    from oneflower_appliance.values import Settings

log = logging.getLogger("flwr")


class Run(Protocol):
    """The used part of Flower's description of a run, `Grid.run`."""

    @property
    def run_id(self) -> int:
        """Its number."""

    @property
    def override_config(self) -> Mapping[str, str | int | float | bool]:
        """The run config that `flwr run` got, which overrides the app's own."""


class SupervisedRun:
    """One run of a strategy, of either API. `kind` is the class of all strategies of its API."""

    def __init__(self, strategy: Any, grid: Grid, runs: Path, checkpoints: Path, kind: type) -> None:
        self._strategy = strategy
        self._node_ids = NodeIds(grid)
        self._name = type(getattr(strategy, "strategy", strategy)).__name__
        self._kind = kind
        self._watch()
        run: Run = grid.run
        self._folder = runs / str(run.run_id)
        self._waiting = Waiting(self._folder, self._node_ids)
        self._abandoned, self._departed = Abandoned.beside(runs), Departed.beside(runs)
        self._form = read_form({})
        self._quorum = Quorum.of(self._form.text("FL_ROUND_QUORUM"))
        self._site_evaluation = self._form.text("FL_SITE_EVALUATION")
        self._told: dict[int, Told] = {}  # by the nodes that evaluated in this round
        self._home = runs.parent
        self._sites = SiteCount(self._folder, self._form, grid)
        self._config = dict(run.override_config)
        self._origin = Origin.of(self._folder)
        self._nodes = _nodes_of(Origin.line(self._folder))  # that were sent anything so far
        path = self._form.text("FL_CHECKPOINT_PATH")
        folder = (Path(path) if path else checkpoints) / self._origin.first
        self._checkpoints = Checkpoints(folder, self._form.integer("FL_CHECKPOINT_KEEP"))
        self._beginning = Beginning()
        self._evaluate_only = False  # the current round was trained before the run was lost
        self._saved: Memory | None = None  # in the checkpoint of the current round
        self._arrays = ArrayRecord()
        self._traffic = Traffic.known(grid)
        if self._traffic:
            self._traffic.write_no_counts()  # the rounds are signs of life
        self._live = self._traffic.live if self._traffic else None
        self._exchange = Exchange()
        self._workflow: object = None  # of the legacy API

    def _watch(self) -> None:
        """Remember the strategy's state as it is before the first round."""
        self._watched = Watched(self._strategy, self._kind)

    def _usual_rounds(self) -> int:
        """Return the number of rounds of an app that chooses none."""
        return read_form(self._config).integer("FL_NUM_ROUNDS")

    def _usual_timeout(self) -> float:
        """Return how long to wait for replies, in seconds, if an app chooses no limit."""
        return float(self._form.integer("FL_ROUND_TIMEOUT"))

    def _begin(self, rounds: int) -> None:
        """Learn where a run of `rounds` begins."""
        self._rounds = rounds
        if line := uncounted(self._form, self._used()):
            log.warning("%s", line)
        self._before = earlier_rounds(self._folder)
        self._beginning = Beginning() if self._before else Beginning.of(self._folder, self._checkpoints)

    def _enter(self, arrays: ArrayRecord | None) -> None:
        """Check that a run of the app's model can begin there, and open its record. Raises `OneflowerError`.

        `arrays` is the app's initial model, None if the server does not have one.
        """
        self._beginning.check(arrays, self._name, self._rounds)
        if found := self._beginning.checkpoint:
            log.info("Resuming from the checkpoint of round %d of run %s.", found.round, self._origin.resumes)
            self._evaluate_only = bool(self._beginning.unevaluated)
            self._restore()
        earlier = self._before or self._beginning.earlier
        self._withheld = is_private(self._run_config, self._strategy, self._workflow)
        nodes = NodeRecord(self._folder, withheld=self._withheld)
        best = BestModels(self._folder, at_once=self._form.flag("FL_CHECKPOINT_ENABLED"))
        if self._beginning.checkpoint:
            folders = Origin.line(self._folder)[1:]
            best.resume([RunRow.parse(line) for line in earlier], folders, self._beginning.checkpoint)
            nodes.resume(folders, self._beginning.done, trained=self._evaluate_only)
        self._record = RunRecord(
            self._folder, self._rounds, self._name, self._config, earlier, nodes, best, later=bool(self._before)
        )

    @property
    def _run_config(self) -> dict[str, Any]:
        return {**(self._traffic.run_config if self._traffic else {}), **self._config}

    def _form_of_run(self) -> Settings:
        """Return the variables as they apply to this run, whose app may mean something else by their keys."""
        try:
            return read_form(self._run_config)
        except OneflowerError:
            return self._form

    def _used(self) -> dict[str, str]:
        """Return the variables that apply to this run, with their values. Its own run config needs no line."""
        given = {name: self._form[name] for name in run_config_keys(self._form, self._config)}
        return {**variables_of(self._strategy), "FL_NUM_ROUNDS": str(self._rounds), **given}

    def _finish(self, arrays: ArrayRecord) -> None:
        """Write the model and the summary."""
        self._note_what_evaluation_changed()
        about(round="")
        self._record.finish(arrays)

    def _restore(self) -> None:
        if self._beginning.checkpoint:
            self._beginning.checkpoint.memory.restore(self._strategy)

    def _open(self, number: int, arrays: ArrayRecord) -> None:
        """Open a round that begins with this model."""
        about(round=str(number))
        self._arrays = arrays
        self._told = {}
        self._note_what_evaluation_changed()
        self._record.open_round(number, arrays, self._beginning.unevaluated if self._evaluate_only else {})

    def _show(self, phase: Phase, nodes: Iterable[int] = ()) -> None:
        """Let people see what the run does; `nodes` are those that are asked for something."""
        if self._live:
            self._live.begin(phase, *self._record.round, nodes)

    def _keep_evaluated_again(self, number: int) -> bool:
        """Whether a round was trained before the run was lost. If so, keep what is already trained."""
        if not (self._evaluate_only and self._beginning.checkpoint):
            return False
        self._evaluate_only = False
        self._saved = self._beginning.checkpoint.memory
        self._keep(number, self._arrays, self._saved)
        return True

    def _online(self) -> set[int]:
        return self._node_ids.ask()

    def _choosing(self, phase: str) -> AbstractContextManager[None]:
        """While the strategy chooses the nodes of a phase: if too few are online, the run says that it waits."""
        self._show(Phase.CHOOSING)
        return self._waiting.said(needed_by(self._strategy, phase))

    def _ask(self, asked: Asked, online: set[int]) -> None:
        """Record which nodes a phase asks; `online` are the nodes that were online before the strategy chose.

        A strategy may leave out a node that it could have asked. A node that was away, even if only while it chose, is
        missing, unless it left on purpose.
        """
        self._asked = asked
        self._sites.look()
        if unasked := self._nodes - asked.nodes:
            for node in unasked - (online & self._online()) - self._departed.nodes():
                asked.blame(node, "away", "it was offline when the nodes were asked")
        if asked.nodes - self._nodes:
            self._nodes |= asked.nodes
            self._record.know(self._nodes)
        self._show(Phase.of(asked.phase) if asked.nodes else Phase.AGGREGATING, sorted(asked.nodes))

    def _lacks_sites(self, answered: Collection[int]) -> bool:
        """Whether the nodes with a result are of too few sites. If so, all of them are left out."""
        reason = self._sites.lack(self._asked.nodes, answered)
        for node in answered if reason else ():
            self._asked.blame(node, "left out", reason)
        return bool(reason)

    def _measure(self) -> Exchange:
        """Measure the messages of the phase that begins."""
        self._exchange = self._traffic.begin_exchange() if self._traffic else Exchange()
        return self._exchange

    def _trained(
        self, number: int, nodes: int, arrays: ArrayRecord | None, metrics: dict[str, Any], told: Mapping[int, Told]
    ) -> None:
        """Record the training of a round by a number of nodes, and save its result. `told` is what each reported."""
        self._record.note(nodes=nodes, failures=len(self._asked.faults), train=metrics)
        self._note_nodes(number, TRAIN, told)
        self._save(number, arrays, metrics)

    def _evaluated(self, number: int, nodes: int, metrics: dict[str, Any], told: Mapping[int, Told]) -> None:
        """Record the evaluation of a round by a number of nodes. `told` is what each reported."""
        self._record.note(evaluate_asked=len(self._asked), evaluated=nodes, evaluate=metrics)
        self._note_nodes(number, EVALUATE, told)
        self._compare_sites(told)

    def _compare_sites(self, told: Mapping[int, Told]) -> None:
        """Record how good the model is on the worst site, by all that evaluated in this round so far."""
        self._told |= told
        if not self._withheld and (found := compared(self._told, self._home)):
            self._record.note(**found)

    def _note_nodes(self, number: int, phase: str, told: Mapping[int, Told]) -> None:
        self._record.report(phase, told, self._asked.faults, self._exchange.measured)
        for fault in self._asked.faults:
            log.warning("Round %d: %s", number, fault.sentence)
        self._record.blame(self._asked.faults)
        self._abandoned.note({node: message for node, message in self._asked.silent.items() if message})

    def _note_what_evaluation_changed(self) -> None:
        """Mark the last round to be evaluated again when resumed, if its checkpoint is older than the state now."""
        if self._saved is not None and not self._saved.same(self._watched.look()):
            self._record.note(**{EVALUATE_AGAIN: True})
        self._saved = None

    def _save(self, number: int, arrays: ArrayRecord | None, metrics: dict[str, Any]) -> None:
        """Write the checkpoint of a round if one is due, and the model after the last round.

        A strategy that the app starts after another one has neither: a run that resumes it starts with the first one.
        """
        if self._before:
            return
        last = number == self._rounds
        interval = self._form.integer("FL_CHECKPOINT_INTERVAL")
        wanted = self._form.flag("FL_CHECKPOINT_ENABLED") and arrays is not None and (last or number % interval == 0)
        if not wanted and not last:
            return
        memory = self._watched.look().copy
        model = arrays or self._arrays
        if wanted or memory.used:  # a model alone is not enough to resume a strategy that has a state
            self._saved = memory
            self._record.save_reports()
            progress = Progress(self._rounds, self._folder.name, self._name, metrics, self._record.row)
            self._checkpoints.save(number, model, memory, progress)
            if memory.unfit:
                log.warning("A run that is lost after round %d cannot be resumed. %s", number, memory.unfit)
        self._keep(number, model, memory)

    def _keep(self, number: int, arrays: ArrayRecord, memory: Memory) -> None:
        """Save the trained model before the last evaluation, in which the run may be lost."""
        if number != self._rounds:
            return
        if memory.used:
            self._checkpoints.wait()
        self._record.trained(arrays, unfit=memory.unfit_without)


def _nodes_of(folders: Iterable[Path]) -> set[int]:
    """Return the nodes that the runs in some folders have asked."""
    known = (Origin.said(folder, NODES) for folder in folders)
    return {node for text in known if text for node in json.loads(text)}
