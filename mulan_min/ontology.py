"""AudioSet's ontology: the classes of sound, and which classes lie below a class."""
import json
from pathlib import Path

from mulan_min.errors import UserError


def read_ontology(path):
    """AudioSet's ontology.json -> {class id: {"name", "description", "child_ids"}}, in the order of the file.

    A missing description becomes "". Raises UserError when the file cannot be read, is not a list of such classes, or has
    a child id that is not the id of a class.
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        classes = {entry["id"]: {"name": entry["name"].strip(), "description": entry.get("description", "").strip(),
                                 "child_ids": list(entry["child_ids"])} for entry in entries}
        for entry in classes.values():
            for child in entry["child_ids"]:
                classes[child]      # raises KeyError for an unknown child
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        form = "a JSON list of classes with id, name, description and child_ids"
        raise UserError(f"{path}: not AudioSet's ontology, {form} ({type(error).__name__}: {error})") from None
    return classes


def below(classes, name):
    """The ids of all classes below the class called `name`, without that class; [] when no class has that name.

    `classes` comes from `read_ontology`. The order is that of a depth-first walk with a stack: all children of one class,
    then the children of the class added last. A class with two parents appears once, where the walk finds it first.
    """
    descendants, stack = {}, [key for key, entry in classes.items() if entry["name"] == name]      # a dict keeps the order
    while stack:
        for child in classes[stack.pop()]["child_ids"]:
            if child not in descendants:
                descendants[child] = True
                stack.append(child)
    return list(descendants)
