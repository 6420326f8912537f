"""A card: plain types there and back, and nothing else gets in."""

import pytest

from taming.data import DrawnLandscapes
from taming.data.card import Card, card_of
from taming.errors import UserError
from taming.images import palette

PLAIN = {
    "labels": ["sky", "water"],
    "colours": [[1, 2, 3], [4, 5, 6]],
    "classes": ["sea"],
    "size": [64, 96],
    "data": "drawn",
    "sampling": {"guidance": 3.0, "top_p": 0.9},
}


def test_plain_types_there_and_back():
    card = Card.of(PLAIN)
    assert card.plain() == PLAIN and Card.of(card.plain()) == card
    assert Card.of({}) == Card() and Card().plain() == {}
    assert card.settings().guidance == 3 and card.settings().temperature == 1


def test_a_legend_has_names_where_the_number_of_labels_is_the_models():
    card = Card.of(PLAIN)
    assert card.legend(2).names == ("sky", "water") and card.legend(2).colours[1] == (4, 5, 6)
    assert card.legend(3).names == ("label 0", "label 1", "label 2") and card.legend(None) is None


@pytest.mark.parametrize(
    "change, message",
    [
        ({"labels": "sky"}, "labels is malformed"),
        ({"colours": [[1, 2, 300], [0, 0, 0]]}, "colours is malformed"),
        ({"colours": [[1, 2, 3]]}, "2 labels, 1 colours"),
        ({"size": [64]}, "size is malformed"),
        ({"data": "x" * 5000}, "data is malformed"),
        ({"sampling": {"guidanse": 3}}, "did you mean 'guidance'"),
        ({"sampling": {"top_p": 7}}, "top_p 7"),
        ({"run": "rm"}, "unknown entry 'run'"),
    ],
)
def test_what_is_no_card_is_one_line(change, message):
    with pytest.raises(UserError, match=message):
        Card.of({**PLAIN, **change})
    with pytest.raises(UserError, match="a list, not"):
        Card.of([])


def test_a_data_set_says_its_labels():
    card = card_of(DrawnLandscapes(16, 4), 12)
    assert card.labels[0] == "sky" and len(card.colours) == len(card.labels)
    assert list(card.colours[0]) == palette(1)[0].tolist()
    assert card.labels[-1] == "label 11" and card.classes == card_of(DrawnLandscapes(16, 4)).classes
    assert card_of(None) == Card()
