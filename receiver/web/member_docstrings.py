"""Reads the docstrings of members from the source. pydantic would do so in each start, for a tenth of its time."""

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import pairwise

from pydantic import BaseModel


def member_docstrings(model: type[BaseModel]) -> Mapping[str, str]:
    """Return the docstring below each member of *model* and of its bases, by the member's JSON name."""
    attributes = {
        attribute: text
        for class_ in reversed(model.__mro__)
        if issubclass(class_, BaseModel) and class_ is not BaseModel
        for attribute, text in _texts_of_module(class_.__module__).get(class_.__name__, {}).items()
    }
    fields = model.model_fields
    return {fields[attribute].alias or attribute: text for attribute, text in attributes.items()}


@cache
def _texts_of_module(name: str) -> Mapping[str, Mapping[str, str]]:
    tree = ast.parse(inspect.getsource(sys.modules[name]))
    return {each.name: dict(_texts(each)) for each in tree.body if isinstance(each, ast.ClassDef)}


def _texts(definition: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for member, below in pairwise(definition.body):
        match member, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                yield name, inspect.cleandoc(text)
