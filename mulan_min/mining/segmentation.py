"""Counts words and splits sentences, in any script."""
import re
import unicodedata
from functools import lru_cache

# Scripts without spaces between words, by the first word of their characters' Unicode names. Two such characters count as
# one word: our choice.
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
# A dot after these words never ends a sentence. After MAYBE it does unless a lower-case letter follows, and after NUMBERED
# unless a number follows.
NEVER = set("feat ft vs mr mrs ms dr prof st sra srta sgt prod arr orch approx ca cf e.g i.e z.b bzw d.h т.е см им др sr".split())
MAYBE = set("etc jr inc ltd bros co min sec max a.m p.m usw и т.д т.п".split())
NUMBERED = set("no nr op vol pt bd num bwv kv hob woo opus part track".split())
ENDS = re.compile(r"[.!?…。！？｡؟۔।॥։።]+[\"'”’»)\]」』）]*")


@lru_cache(maxsize=None)
def is_unspaced(char):
    """Whether a character belongs to a script without spaces between words."""
    return unicodedata.category(char)[0] == "L" and unicodedata.name(char, "").startswith(UNSPACED)


def count_words(text):
    """The number of words: runs of letters and digits between spaces, and in scripts without spaces half the characters."""
    unspaced = 0 if text.isascii() else sum(map(is_unspaced, text))
    return (unspaced + 1) // 2 + sum(any(c.isalnum() and not is_unspaced(c) for c in chunk) for chunk in text.split())


def sentences(text):
    """Splits a comment into its sentences, with their punctuation. A new line always begins a new sentence."""
    result = []
    for line in re.split(r"[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+", text):
        start = 0
        for end in ENDS.finditer(line):
            if _ends_sentence(line[start:end.start()], end.group(), line[end.end():end.end() + 20]):
                result.append(line[start:end.end()].strip())
                start = end.end()
        result.append(line[start:].strip())
    return list(filter(None, result))


def _ends_sentence(before, mark, after):
    """Whether the punctuation `mark` ends the sentence. `before` is the sentence up to it, `after` the text behind it."""
    following = after.lstrip()
    if not following or mark[0] in "。！？｡":
        return True
    if not after[0].isspace():      # 4.5, example.com; but scripts without spaces may continue at once
        return mark[0] in "!?…" and is_unspaced(after[0])
    lower = following[0].islower()
    if mark[-1] in "\"'”’»)]」』）" and lower or mark.startswith(("..", "…")) and lower:
        return False                # "Help!" she sings; well ... maybe
    if mark[0] != ".":
        return True
    word = re.search(r"[^\s(\[\"“„«]*$", before)[0].casefold()
    if word in NEVER or len(word) == 1 and word.isalpha():      # an initial, as in J. S. Bach
        return False
    if word in MAYBE or re.fullmatch(r"\w(?:\.\w)+", word):     # R.E.M. are; R.E.M. The
        return not lower
    if word in NUMBERED:
        return not following[0].isdecimal()
    return not (word.isdecimal() and before.strip() == word)    # the "1." of a numbered line
