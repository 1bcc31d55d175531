"""What `scripts/chaos.py` is made of: a cluster that can be hurt in every way, and what is seen meanwhile.

`cluster` and `disks` hurt, `nemeses` knows how, `schedule` says when; `workload` asks and records, `measure` counts,
`verdict` judges (with `tests/checkers`), `report` and `charts` show; `perseus` is one measurement of its own.
"""
