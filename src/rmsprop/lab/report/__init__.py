"""Report the results of runs: HTML pages, figures and sentences."""
