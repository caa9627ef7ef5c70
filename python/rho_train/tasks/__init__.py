"""The built-in tasks, and parts for a task of your own."""

from rho_train.tasks.images import ImageFiles, images
from rho_train.tasks.models import cnn, embedding_bag, mlp
from rho_train.tasks.table import letters, table
from rho_train.tasks.task import Task, load_task
from rho_train.tasks.text import text

__all__ = ["ImageFiles", "Task", "cnn", "embedding_bag", "images", "letters", "load_task", "mlp"]
__all__ += ["table", "text"]
