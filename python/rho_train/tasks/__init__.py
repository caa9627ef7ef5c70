"""The built-in tasks, and what a task of your own can be made from."""

from rho_train.tasks.image_files import ImageFiles
from rho_train.tasks.images import images
from rho_train.tasks.letters import letters
from rho_train.tasks.models import cnn, embedding_bag, mlp
from rho_train.tasks.table import table
from rho_train.tasks.task import Task, load_task
from rho_train.tasks.text import Tokenizer, text

__all__ = [
    "ImageFiles",
    "Task",
    "Tokenizer",
    "cnn",
    "embedding_bag",
    "images",
    "letters",
    "load_task",
    "mlp",
    "table",
    "text",
]
