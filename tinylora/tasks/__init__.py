"""Tasks: what a model is fine-tuned for, from reading a file of examples to scoring the model's answers."""

from tinylora.tasks.chat import Chat
from tinylora.tasks.classify import Classify
from tinylora.tasks.tag import Tag
from tinylora.tasks.task import Task
from tinylora.tasks.text import Text

TASKS: dict[str, type[Task]] = {task.name: task for task in (Classify, Chat, Tag, Text)}
