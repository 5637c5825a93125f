"""eval/report.html: what a run was, what it scored beside its floors, what it finds. One file that loads nothing."""
