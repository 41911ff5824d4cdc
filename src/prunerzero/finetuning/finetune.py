"""Fine-tuning a pruned checkpoint beside its dense model: same text, same steps, zeros kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prunerzero.data.documents import Split
from prunerzero.data.sources import is_named, load_documents, text_name
from prunerzero.data.splits import documents_of
from prunerzero.data.windows import Windows, WindowSampler
from prunerzero.data.written import without_self
from prunerzero.errors import InputError
from prunerzero.evaluation.evaluate import cut_texts
from prunerzero.evaluation.perplexity import Interval, TextLoss, measure_loss, paired_interval
from prunerzero.finetuning.adapter import attach, detach
from prunerzero.finetuning.schedule import Length, Rates
from prunerzero.finetuning.training import Course, Training
from prunerzero.models.blocks import Selection, find_blocks
from prunerzero.models.compute import compute_for
from prunerzero.models.loading import load_model
from prunerzero.models.names import check_model_name
from prunerzero.progress import Report, silent
from prunerzero.pruning.checkpoint import (
    check_savable,
    read_record,
    seen_documents,
    write_finetuned_record,
)
from prunerzero.pruning.pruner import matrix_results, overall_sparsity
from prunerzero.pruning.shards import USUAL_SHARD, require_room, shard_as
from prunerzero.streaming.journal import Journal, work_directory

PRUNED, DENSE = "pruned", "dense"
CHECKPOINT = "checkpoint"  # in the work directory: the fine-tuned model until all is measured


@dataclass(frozen=True)
class Settings:
    """What decides about a fine-tuning besides its length.

    Attributes:
        rank: of the update of each matrix.
        alpha: its scale is ``alpha / sqrt(rank)``.
        learning_rate: the highest; it rises linearly, then falls linearly to zero.
        batch: windows a step.
        sequence_length: tokens a window, in training and evaluation.
        windows: held-out windows, where the text is a named one.
        seed: of everything random.
    """

    rank: int = 32
    alpha: float = 32.0
    learning_rate: float = 5e-4
    batch: int = 4
    sequence_length: int = 512
    windows: int = 32
    seed: int = 0


@dataclass(frozen=True)
class Tuned:
    """One model before and after.

    Attributes:
        before: held-out loss before.
        after: held-out loss after.
        course: how the training went.
    """

    before: TextLoss
    after: TextLoss
    course: Course

    @property
    def change(self) -> Interval:
        """What fine-tuning changed in perplexity."""
        return paired_interval(self.after.losses, self.before.losses)

    def to_json(self) -> dict[str, Any]:
        """The perplexities and the course in a few numbers."""
        return {
            "perplexity_before": self.before.perplexity,
            "perplexity_after": self.after.perplexity,
            "change": self.change.to_json(),
            "steps": len(self.course.rates),
            "seconds": self.course.seconds,
            "training_loss": self.course.recent_loss if self.course.rates else None,
        }


@dataclass(frozen=True)
class FinetuneResult:
    """What a fine-tuning did.

    Attributes:
        pruned: the pruned model.
        dense: the dense model, fine-tuned equally; None where it was not wanted.
        sparsity: share of zeros in the prunable matrices, the same as before.
        settings: everything needed to repeat the run, JSON-serialisable.
        output: the checkpoint.
    """

    pruned: Tuned
    dense: Tuned | None
    sparsity: float
    settings: dict[str, Any]
    output: Path

    @property
    def recovery(self) -> float | None:
        """The share of pruning's loss in perplexity that is gone, measured against dense models.

        1 - (pruned after - dense after) / (pruned before - dense before): learning the text's
        domain, which a dense model does too, counts for nothing.
        """
        if self.dense is None:
            return None
        lost = self.pruned.before.perplexity - self.dense.before.perplexity
        still = self.pruned.after.perplexity - self.dense.after.perplexity
        return 1 - still / lost if lost > 0 else None

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON-serialisable dictionary."""
        return {
            **self.pruned.to_json(),
            "dense": self.dense.to_json() if self.dense else None,
            "recovery": self.recovery,
            "sparsity": self.sparsity,
            "settings": self.settings,
            "output": self.output,
        }


@dataclass(frozen=True)
class Plan:
    """What a fine-tuning reads, checked before anything is loaded.

    Attributes:
        directory: the pruned checkpoint.
        record: its ``pruning.json``.
        text: what is trained on: calibration documents of a named source, all of a file.
        heldout: what is evaluated on.
        dense: the dense model's name; None to leave it out.
    """

    directory: str
    record: Mapping[str, Any]
    text: str
    heldout: str
    dense: str | None

    @classmethod
    def make(
        cls,
        directory: str,
        *,
        text: str | None = None,
        heldout: str | None = None,
        against: str | None = None,
        control: bool = True,
    ) -> Plan:
        """Fills in what the user leaves open from the checkpoint's record.

        Args:
            directory: a checkpoint that `prunerzero prune` wrote.
            text: training text; by default what the model was calibrated on.
            heldout: evaluation text; by default held-out documents of the training text.
            against: the dense model; by default the one that was pruned.
            control: whether to fine-tune the dense model too.

        Raises:
            InputError: the directory has no record, or a text cannot be used.
        """
        record = read_record(directory)
        if record is None:
            raise InputError(
                f"checkpoint {directory}: holds no pruning.json; give a directory that "
                "`prunerzero prune` wrote"
            )
        calibration = (record["settings"].get("calibration") or {}).get("source")
        if text is None:
            readable = without_self(calibration) if calibration else None
            known = readable and (is_named(readable) or os.path.exists(readable))
            text = str(readable) if known else "wikipedia"
        documents_of(load_documents(text), Split.CALIBRATION if is_named(text) else None)
        if heldout is None and not is_named(text):
            raise InputError(f"text '{text}': is trained on whole, so give another with --text")
        dense = (against or str(record["model"])) if control else None
        if dense is not None:
            _check_dense(dense)
        return cls(directory, record, text, heldout or text, dense)


def finetune(
    plan: Plan,
    output: Path,
    length: Length,
    settings: Settings | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    report: Report = silent,
) -> FinetuneResult:
    """Fine-tunes a pruned checkpoint, and the dense model equally, and writes the former.

    An interrupted run leaves ``OUTPUT.partial``; the same call goes on from it.

    Args:
        plan: what is read.
        output: directory to make.
        length: how long the pruned model is trained; the dense one gets the same steps.
        settings: the rest; None for the defaults.
        device: where it runs; None takes the first GPU, else the CPU.
        dtype: precision of the passes; None takes bfloat16 where the hardware has it.
        report: called with a step's name, what is done, and of how much.

    Returns:
        Perplexities before and after.

    Raises:
        InputError: for unusable text, a model whose matrices are all experts in 3-D parameters, or
            an unfinished run with other settings in the work directory.
    """
    settings = settings or Settings()
    described: dict[str, Any] = {
        **asdict(settings),
        **asdict(length),
        "model": os.path.abspath(plan.directory),
        "against": plan.dense,
        "text": plan.text,
        "split": str(Split.CALIBRATION) if is_named(plan.text) else None,
        "heldout": text_name(plan.heldout),
    }
    with Journal(work_directory(output)) as journal:
        journal.open({**described, "device": device, "dtype": dtype})
        run = _Run(plan, settings, journal, device, dtype, report)
        pruned = run.tune(PRUNED, plan.directory, Rates(settings.learning_rate, length))
        dense = None
        if plan.dense is not None:
            same = Rates(settings.learning_rate, length, pruned.course.rates)
            dense = run.tune(DENSE, plan.dense, same)
        result = FinetuneResult(
            pruned=pruned,
            dense=dense,
            sparsity=journal.done["sparsity"],
            settings={**described, "compute": journal.done["compute"]},
            output=output,
        )
        document = {**result.to_json(), "documents": journal.done["documents"]}
        finished = journal.folder / CHECKPOINT
        write_finetuned_record(finished, plan.record, document)
        output.parent.mkdir(parents=True, exist_ok=True)
        os.replace(finished, output)  # over nothing, or an empty directory
        journal.discard()
    return result


@dataclass(frozen=True)
class _Run:
    """One fine-tuning: the same for the pruned and for the dense model."""

    plan: Plan
    settings: Settings
    journal: Journal
    device: str | None
    dtype: str | None
    report: Report

    def tune(self, what: str, name: str, rates: Rates) -> Tuned:
        """Measures, trains, measures; or recalls it."""
        if what not in self.journal.done:
            self.journal.commit(**{what: self._tune(what, name, rates)})
        found = self.journal.done[what]
        before, after = (TextLoss(tuple(found[k]), found["tokens"]) for k in ("before", "after"))
        return Tuned(before, after, Course(**found["course"]))

    def _tune(self, what: str, name: str, rates: Rates) -> dict[str, Any]:
        settings, plan = self.settings, self.plan
        model, tokenizer = load_model(
            name, device=self.device, dtype="float32" if self.dtype == "float32" else None
        )
        if what == PRUNED:
            check_savable(model)
        if tokenizer is None:
            raise InputError(
                "fine-tuning on text needs a tokenizer: this model has none that can be read"
            )
        compute = compute_for(model, self.dtype)
        heldout = self._heldout(model, tokenizer)
        split = Split.CALIBRATION if is_named(plan.text) else None
        sampler = WindowSampler(
            plan.text, tokenizer, split, settings.sequence_length, settings.seed
        )
        sampler.draw(0, settings.batch)  # too short a text is found before anything is measured
        before = self._measure(f"{what}, before", model, heldout, compute)
        blocks = find_blocks(model, _selection(plan.record))
        matrices = [matrix for block in blocks for matrix in block.matrices]
        layers = attach(
            model,
            matrices,
            settings.rank,
            settings.alpha,
            seed=settings.seed,
            masked=what == PRUNED,
        )
        file = self.journal.folder / f"{what}.safetensors"
        training = Training(model, layers, sampler, settings.batch, compute, file)
        self.journal.commit()  # now there is something to go on with
        training.run(rates, f"{what}, fine-tuning", self.report)
        detach(model, layers)
        after = self._measure(f"{what}, after", model, heldout, compute)
        if what == PRUNED:
            results = matrix_results(find_blocks(model, _selection(plan.record)))
            self._save(model, tokenizer)
            self.journal.commit(
                sparsity=overall_sparsity(results),
                compute=str(compute),
                documents=sorted(
                    {
                        digest
                        for step in range(len(training.course.rates))
                        for digest in sampler.draw(step, settings.batch).documents
                    }
                ),
            )
        return {
            "before": before.losses,
            "after": after.losses,
            "tokens": before.tokens,
            "course": asdict(training.course),
        }

    def _heldout(self, model: Any, tokenizer: Any) -> Windows:
        seen = seen_documents(self.plan.directory)
        cuts = cut_texts(
            model,
            tokenizer,
            [self.plan.heldout],
            windows=self.settings.windows,
            sequence_length=self.settings.sequence_length,
            seed=self.settings.seed,
            seen=seen,
        )
        return cuts[text_name(self.plan.heldout)]

    def _measure(self, step: str, model: Any, windows: Windows, compute: Any) -> TextLoss:
        return measure_loss(
            model, windows, compute, lambda done: self.report(step, done, len(windows))
        )

    def _save(self, model: Any, tokenizer: Any) -> None:
        folder = self.journal.folder / CHECKPOINT
        shutil.rmtree(folder, ignore_errors=True)
        require_room(model, folder, self.plan.directory)
        model.save_pretrained(folder, max_shard_size=USUAL_SHARD)
        shard_as(Path(self.plan.directory), folder)
        tokenizer.save_pretrained(folder)


def _check_dense(name: str) -> None:
    try:
        check_model_name(name)
    except InputError as error:
        raise InputError(
            f"{error}; give the dense model with --against, or leave it out with --no-control"
        ) from None


def _selection(record: Mapping[str, Any]) -> Selection:
    """What was pruned; only that is fine-tuned."""
    found: dict[str, Any] = record["settings"]["selection"]
    return Selection(
        found["blocks"], tuple(found["include"]), tuple(found["exclude"]), found["min_coverage"]
    )
