"""What can be wrong with a rule or with a case beside it, found when it is loaded."""

from __future__ import annotations

from reconciler.model.errors import ReconcilerError


class RuleSyntax(ReconcilerError):
    """A rule's expression is not CEL.

    ``when`` and ``require`` are written in the Common Expression Language (https://cel.dev). The
    place is where the reader stopped understanding; the mistake is there or just before.
    """

    code = "PO101"


class UnknownName(ReconcilerError):
    """A rule names a variable, field or function that does not exist.

    Rules are checked against the types of what they can see, so that a misspelt field is found when
    the rule is loaded, and not on the night when the rule should have held something back.
    """

    code = "PO102"


class WrongTypes(ReconcilerError):
    """A rule compares or combines values of types that do not go together.

    CEL converts nothing by itself: a share is a double and is compared with 1.0, not with 1; a
    version is text; a size is a number of bytes, written 10 * GiB or quantity("10Gi").
    """

    code = "PO103"


class NotAtThisStage(ReconcilerError):
    """A rule uses something that does not exist yet at one of its stages.

    At ``spec`` there is ``database``; at ``plan`` also ``plan`` and ``fleet``; at ``apply`` also
    ``step``, the one that is about to run. ``now`` and the constants are there at all of them.
    """

    code = "PO104"


class NotTrueOrFalse(ReconcilerError):
    """A rule's expression is valid, but its result is not true or false."""

    code = "PO105"


class RuleTwice(ReconcilerError):
    """Two policies share a name, or two rules of one policy do.

    Findings name the policy and the rule; with two of a name nobody could tell which one spoke.
    """

    code = "PO106"


class BadLiteral(ReconcilerError):
    """A rule holds a time zone, size, duration, time or pattern that does not exist.

    CEL only notices when the rule runs. Texts written out in the rule are tried when it is loaded.
    """

    code = "PO107"


class RuleTooComplex(ReconcilerError):
    """A rule's expression is longer, or nests deeper, than CEL reads.

    The limits keep a rule from costing more than the plan it guards: 4,000 characters, 32 levels of
    nesting (parentheses, or a chain of +; ``&&`` and ``||`` chains do not nest), and three calls of
    map, replace, format and join, each of which can multiply what the one before it made.
    """

    code = "PO108"


class BadCase(ReconcilerError):
    """A case beside a policy says something that no database or plan has, or tests nothing.

    Cases fill in only what they need; the rest has defaults. A misspelt field would otherwise leave
    the default in place, and the case would pass without testing what it says.
    """

    code = "PO109"
