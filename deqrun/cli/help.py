"""The help pages: `deqrun` and `deqrun COMMAND --help`, 80 columns, and examples that work as they stand."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the first page needs no Hydra
    from deqrun.settings.sources import ConfigSources

WIDTH = 80

COMMANDS = {
    "train": "train a model, sweep its test-time budget, write the report",
    "sweep": "test a trained model with other budgets or solvers",
    "compare": "put runs on one page and in one table, seeds folded",
    "dashboard": "serve the same page while runs go on",
    "runs": "list runs with state, accuracy, age and size; clean up",
    "report": "draw the page and the charts of a run again",
    "describe": "print parameters, state size and cost, without training",
    "check": "test a cell or a data set of your own on a few samples",
    "new": "write a working example of a cell, data set, solver or study",
}

WELCOME = """\
deqrun trains a deep equilibrium model once. It then tests the trained model at
every iteration budget, tolerance and solver that you name, and writes a report.

Try first
  deqrun train study=demo    a small model on real digits: a few minutes, no
                             download, no account; ends with a report.html
  deqrun train --help        all groups and keys

Commands
{commands}

deqrun COMMAND --help explains a command; deqrun --version prints the version.
Completion for bash: eval "$(deqrun -sc install=bash)"
"""

FLAGS = """
Flags
  -m, --multirun         one job for every combination of comma-separated values
  -c, --cfg job          print the configuration instead of running
  -p, --package KEY      with --cfg: only this part, as in -p solver
  --resolve              with --cfg: interpolations filled in
  -i, --info [WHAT]      config, defaults, defaults-tree, plugins or searchpath
  -cd, --config-dir DIR  a folder with config groups and Python code of your own
  -sc install=bash       completion for your shell: bash, zsh or fish
  -h, --help             this page
"""

PAGES = {
    "train": """\
usage: deqrun train [-m] [group=option ...] [key=value ...] [flags]

Trains a deep equilibrium model, sweeps the test-time budget of the checkpoint
that validation chose, and writes records, figures and report.html into
outputs/train/<date>/<time>-<name>. Each key has a default.

Config groups, as in model=conv
{groups}

Common keys, as in train.epochs=10
  train.epochs, train.batch_size    passes over the data; samples per step
  optimizer.lr                      peak learning rate
  budget.max_iter, budget.tol       steps and tolerance of one solve in training
  solver.memory                     any parameter of the solver; also model.*
  solver@gradient.solver            solver of the backward pass
  baseline.layers, baseline.match   with baseline=tied or baseline=untied
  sweep.iterations=[1,2,4]          test-time budgets; also tolerances, solvers
  seed, device, threads, name       device: auto, cpu, cuda, cuda:1, mps, xpu
  launch.devices                    ranks that share the batches, one a device
  tracker.mode                      offline, online or disabled
  report                            false: no page; deqrun report makes it later
  hydra/launcher, hydra/sweeper     with -m: parallel, processes, slurm; search
  run=DIR, resume=true              the run's folder; resume the run in DIR

Examples
  deqrun train study=demo
  deqrun train model=conv train.epochs=5 sweep=quick
  deqrun train solver=picard solver.damping=0.8 budget=deep
  deqrun train -m solver=picard,anderson seed=0,1,2
  deqrun train run=outputs/train/mine model=mlp seed=3
{flags}
docs/cli.md explains keys, grids of runs (-m) and resuming. docs/studies.md
explains studies, which train several runs and end in an answer.
""",
    "sweep": """\
usage: deqrun sweep run=DIR [group=option ...] [key=value ...] [flags]
       deqrun sweep cell=MODULE:FACTORY [checkpoint=FILE] [key=value ...]

Tests a trained model with other iteration budgets, tolerances and solvers.
Nothing is retrained. The config.yaml in DIR rebuilds the model. Results go into
outputs/sweep/<date>/<time>-<name of the run>.

With cell= the model is your own: an nn.Module with f(z, x), start(x) and
readout(z), made by a class or function of yours. docs/your_model.md has one.

Config groups, as in sweep=quick
{groups}

Common keys
  run=DIR                      the run folder
  cell, checkpoint, cell.NAME  your model, its file, its parameters
  sweep.iterations=[1,2,4]     budgets, in solver steps
  sweep.tolerances=[1e-2]      residuals at which a sample stops
  sweep.solvers=[anderson]     solvers to test
  solver.memory                any parameter of the run's solver
  dataset.root=DIR             folder of the data on this machine
  device, threads              device: auto, cpu, cuda, cuda:1, mps, xpu

Examples, for the run in outputs/train/mine
  deqrun sweep run=outputs/train/mine
  deqrun sweep run=outputs/train/mine sweep=quick
  deqrun sweep run=outputs/train/mine sweep.iterations=[32,64,128,256]
  deqrun sweep run=outputs/train/mine sweep.solvers=[picard,anderson]
  deqrun sweep -m run=outputs/train/mine solver.memory=5,20
{flags}""",
    "compare": """\
usage: deqrun compare [DIR ...] [--sort COLUMN] [--export FILE] [--output DIR]

Compares runs: a table in the terminal, and one offline page with charts and a
table to search and sort. Runs that differ in their seed alone are one row, with
a 95 % interval of their mean. A DIR is a run, a folder of runs (a
multirun, a study), or a pattern; without a DIR, all of outputs/. Runs that
cannot be compared are listed with the reason. Nothing is trained.

Config groups and keys: none; each run has its own configuration.

Options
  --sort COLUMN  of the table: val_accuracy (default), test_accuracy,
                 evaluations, residual, parameters, train_seconds, seeds, or
                 a key that differs, as budget.max_iter
  --reverse      the other way round; rows without a value stay last
  --export FILE  also write the table: .csv, .md, .tex or .parquet
  --apart        a row a run in the exported file, in place of folded seeds
  --output DIR   where the page goes; default outputs/compare/<date>/<time>
  -h, --help     this page

Examples
  deqrun compare
  deqrun compare outputs/train/A outputs/train/B
  deqrun compare outputs/train/2030-01-31/12-00-00-multirun --sort test_accuracy
  deqrun compare outputs/train/2030-01-31/* --export table.csv
  deqrun compare outputs/train/A outputs/train/B --output outputs/compare/A-B
""",
    "dashboard": """\
usage: deqrun dashboard [DIR ...] [--port N]

Serves the page of deqrun compare at http://127.0.0.1:8517/ and keeps it fresh
while runs go on. This machine alone sees it. It reads, and writes nothing.

Config groups and keys: none; the runs say what they were.

Options
  --port N       another port; 0 or auto for any free one
  -h, --help     this page

Examples
  deqrun dashboard
  deqrun dashboard --port auto
  deqrun dashboard --port 9000
  deqrun dashboard outputs/train/2030-01-31
  deqrun dashboard outputs/train/A outputs/train/B
""",
    "runs": """\
usage: deqrun runs [DIR ...] [--state STATES] [--clean [--yes]]

Lists runs and sweeps with their state, test accuracy, age and size. A DIR is a
run, a folder that holds some, or a pattern; without any, all of outputs/.

Config groups and keys: none.

Options
  --state STATES  only these, as failed,killed: completed, running, interrupted
                  (by Ctrl-C), killed (its process is gone), failed, empty
                  (stopped before it began), unknown
  --clean         propose to delete those that are failed, killed, interrupted
                  or empty, and ask; completed ones only with --state completed.
                  Interrupted and killed runs could go on: look before you agree
  --yes           with --clean: delete without asking, as in a script
  -h, --help      this page

Examples
  deqrun runs
  deqrun runs outputs/train/2030-01-31
  deqrun runs --state failed
  deqrun runs --clean
  deqrun runs --clean --state failed,empty --yes
""",
    "report": """\
usage: deqrun report run=DIR

Draws report.html and figures/ of a run again, from the records in its folder.
Nothing is trained or solved, and nothing else in the folder changes.

Config groups and keys: run alone; the run has its own configuration.

Options
  run=DIR        the run folder; required
  -h, --help     this page

Examples
  deqrun report run=outputs/train/mine
""",
    "describe": """\
usage: deqrun describe [group=option ...] [key=value ...] [--config-dir DIR]

Prints the parts of a configuration: the cell, its parameters, the size of its
state, the cost of one evaluation, and which parameters weight decay is for.
Nothing is trained or written.

Config groups and keys: the same as for deqrun train
{groups}

Flags
  -cd, --config-dir DIR  a folder with config groups and Python code of your own
  -h, --help             this page

Examples
  deqrun describe
  deqrun describe model=mdeq_large dataset=cifar10
  deqrun describe model=mlp model.width=512
  deqrun describe solver=picard gradient=one_step
  deqrun describe run=outputs/train/mine
""",
    "check": """\
usage: deqrun check [group=option ...] [key=value ...] [--config-dir DIR]

Tests a cell, a data set, or both on a few samples: shapes, dtypes, independent
samples, one map per solve, derivatives, splits, labels. Prints a line for each
check. The exit code is 0, or 2 if a check fails. Nothing is trained or written.

Config groups and keys: the same as for deqrun train
{groups}

Flags
  -cd, --config-dir DIR  a folder with config groups and Python code of your own
  -h, --help             this page

Examples
  deqrun check model=mlp
  deqrun check dataset=digits
  deqrun check model=conv model.channels=16 dataset=digits
  deqrun check dataset=prefix_sums dataset.length=32
  deqrun check model=transformer train.jacobian_weight=0
""",
    "new": """\
usage: deqrun new cell|dataset|solver|study NAME [--output DIR]

Writes a working example of a part of your own, with its option and a test, into
the current folder, and prints the next command. Nothing is overwritten.

Config groups and keys: none; --config-dir DIR reads the new option.

Options
  --output DIR   output folder; default the current folder
  -h, --help     this page

Examples
  deqrun new cell my_cell
  deqrun new dataset my_data
  deqrun new solver my_solver
  deqrun new study my_study
  deqrun new cell another_cell --output mine
""",
}
SWEEP_GROUPS = ("sweep", "solver", "dataset", "tracker")


def welcome() -> str:
    """The page of `deqrun` without a command: its purpose, and first commands to try."""
    return WELCOME.format(commands="\n".join(f"  {name:<10} {what}" for name, what in COMMANDS.items()))


def page(command: str, sources: ConfigSources) -> str:
    """The help of one command, its config groups as they are found."""
    groups = {name: options for name, options in sources.groups.items() if command != "sweep" or name in SWEEP_GROUPS}
    lines = "\n".join(_group_line(name, options) for name, options in groups.items())
    return PAGES[command].format(groups=lines, flags=FLAGS)


def _group_line(name: str, options: list[str]) -> str:
    return textwrap.fill(", ".join(options), WIDTH, initial_indent=f"  {name:<10} ", subsequent_indent=" " * 13)
