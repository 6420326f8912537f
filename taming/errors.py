"""What a user did wrong, in one line: the value, the expectation and the cure."""

from difflib import get_close_matches


class UserError(Exception):
    """A mistake of input, configuration or surroundings. The command line prints it without a
    traceback and exits with `code`.
    """

    code = 2


def did_you_mean(word: str, known) -> str:
    """`; did you mean 'x'?` where one of `known` is close to `word`, else the list of all."""
    known = [str(k) for k in known]
    close = get_close_matches(str(word), known, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
