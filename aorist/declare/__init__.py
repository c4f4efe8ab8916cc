"""What engineers declare entities with. One file per domain in each role folder; everything is checked at import."""

from aorist.declare.check_fold import check_fold
from aorist.declare.codec import Codec
from aorist.declare.commands import Commands
from aorist.declare.given import given
from aorist.declare.project import Project, load_project
from aorist.declare.queries import Queries
from aorist.declare.ranges import InRange, Window
from aorist.declare.restating import restating
from aorist.declare.seed import Seed
from aorist.declare.series import Length, Series, Windows
from aorist.declare.view import View
from aorist.settings import find_root

__all__ = [
    "Codec",
    "Commands",
    "InRange",
    "Length",
    "Project",
    "Queries",
    "Seed",
    "Series",
    "View",
    "Window",
    "Windows",
    "check_fold",
    "find_root",
    "given",
    "load_project",
    "restating",
]
