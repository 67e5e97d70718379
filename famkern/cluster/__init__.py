"""The files of a batch on many machines, through Ray, an extra.

    jobs --handfuls--> workers, on any machine --the outcome of each file, when it is there--> here

connection.py a cluster, and the workers that do jobs there
worker.py     what runs in each of their processes
work.py       what is still to be done, and what becomes of files whose worker died
layout.py     how many workers there are, and what each takes

A worker does a handful of jobs as `famkern.batch.dehaze_files` does them on one machine: the same names, rules and bytes.
Only names and outcomes travel; all machines must see the files.

This is Ray's core, not Ray Data, whose unit is the block: one that fails for good is dropped, and nothing says which rows
it held, but every file is to have its outcome.
"""

INSTALL = "pip install 'famkern[ray]'"


class ClusterError(RuntimeError):
    """No worker can be started; one line that says why."""
