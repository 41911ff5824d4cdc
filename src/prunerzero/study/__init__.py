"""One search on disk: settings, candidates and measurements in one SQLite file."""

from prunerzero.study.merging import merge
from prunerzero.study.records import Candidate, Event, Measurement
from prunerzero.study.store import Study

__all__ = ["Candidate", "Event", "Measurement", "Study", "merge"]
