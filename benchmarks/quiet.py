"""Imported before torch by every benchmark: threads wait as they do under the command line."""

from prunerzero.openmp import wait_patiently

wait_patiently()
