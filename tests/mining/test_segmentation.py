"""Sentences and words in several scripts, against a segmentation by hand."""
import pytest

from mulan_min.mining.segmentation import count_words, is_unspaced, sentences

GOLD = """
The harp is soft. | The choir is not. | Why?
so good. love the bass! | it's great
Played in 4.5 time at 1.5x speed. | Then slower.
Waltz feat. Otto and Dr. Smith vs. Mr. Jones, prod. by Ann. | Nice.
Op. 9 No. 2 is sad. | No. | I said no. | Then it stops.
J. S. Bach wrote it. | R.E.M. are sad and so are the U.S. charts.
I like R.E.M. | The guitars ring.
bass, drums, etc. and a harp. | bass, drums, etc. | The voice is warm.
it starts slow ... then it grows... | Wow.
Wait… what? | Wait… | What!?
"Help!" she sings. | He answers "No." | Then quiet (very quiet.) | End
1. A slow intro. | 2. The drums.
See site.com/a.b for more.Not split, ok!
素晴らしい。 | ピアノがいい！ | 「静かだ。」 | 終わり
すごい! | 静か? | はい
Очень тихо, т.е. шепотом. | Хор громче!
यह धीमा है। | वीणा सुंदर है।
هل هذا لحن؟ | نعم
¡Qué triste! | ¿No? | Sí.
"""


@pytest.mark.parametrize("line", GOLD.strip().splitlines())
def test_sentences_end_at_the_bars(line):
    """A bar marks the end of a sentence."""
    gold = [part.strip() for part in line.split("|")]
    if gold[0] == "so good. love the bass!":      # many comments have no capitals
        gold[0:1] = ["so good.", "love the bass!"]
    unspaced = any(is_unspaced(char) for char in line)
    assert sentences(("" if unspaced else " ").join(gold)) == gold


def test_a_new_line_ends_a_sentence():
    assert sentences("slow and sad\n\nwarm\r\nсолнце\u2028夜") == ["slow and sad", "warm", "солнце", "夜"]


def test_words_are_counted_in_any_script():
    for text, words in (("a slow waltz, 2nd take!", 5), ("- — ...", 0), ("грустный вальс", 2), ("ピアノが静か", 3),
                        ("संगीत शांत है", 3), ("슬픈 피아노", 2), ("เพลงช้า", 3), ("夜 in Köln", 3), ("", 0)):
        assert count_words(text) == words, text
