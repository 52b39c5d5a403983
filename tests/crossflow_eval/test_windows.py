"""What Windows has not is needed nowhere: every module is imported, and a command run, in a process that lacks it."""

import os
import subprocess
import sys

LACKING = """
import importlib, os, pkgutil, subprocess, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "resource", "pwd", "grp", "termios"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

def popen(self, *arguments, pass_fds=(), start=subprocess.Popen.__init__, **options):
    if pass_fds:
        raise AssertionError("pass_fds not supported on Windows.")
    start(self, *arguments, **options)

sys.meta_path.insert(0, Hidden())
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules.pop(name, None)
for name in ("wait4", "wait3", "fork", "forkpty", "geteuid", "mkfifo", "sched_getaffinity"):
    if hasattr(os, name):
        delattr(os, name)
subprocess.Popen.__init__ = popen

import crossflow, crossflow_eval
from crossflow_eval.cli import app

for package in (crossflow, crossflow_eval):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
app(["list"])
"""


def test_every_module_is_imported_and_list_runs_without_what_windows_lacks(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", LACKING]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert "scenes-t2i" in done.stdout
