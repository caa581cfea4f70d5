"""Each cleaning rule, on texts that it must change and on texts that it must leave alone, in several scripts. Then all together."""
import re
import time
import unicodedata
from collections import Counter

import numpy as np
import pytest

from mulan_min.mining import text_rules as rules
from mulan_min.mining.text_rules import RULES_LF, RULES_SF, clean

BY_NAME = {name: {rule: function for rule, function, _ in table} for name, table in (("sf", RULES_SF), ("lf", RULES_LF))}

# rule, text, expected result: a text, a list of texts, or None when the text is dropped
CHANGED = [
    (rules.plain_characters, "𝐒𝐚𝐝 Ｐｉａｎｏ ﬂute", "Sad Piano flute"),
    (rules.plain_characters, "don´t\u200b stop\u00a0 \u202enow\x07", "don't stop now"),
    (rules.plain_characters, "cafe\u0301 ｶﾞｷﾞ", "café ガギ"),
    (rules.plain_characters, "one  two \r\n\n three", "one two\nthree"),
    (rules.plain_characters, "waltz \ud83c \ue000", "waltz"),
    (rules.no_symbols, "waltz 🎹👩🎤🏽 ★ ☕\ufe0f", "waltz"), (rules.no_symbols, "1\ufe0f\u20e3 вальс ♪ № 5 ™", "1 вальс № 5"),
    (rules.hashtags, "Waltz #sad #LoFi_beats", ["Waltz", "sad", "LoFi beats"]),
    (rules.hashtags, "#음악 #संगीत#वीणा! 歌", ["歌", "음악", "संगीत", "वीणा"]),
    (rules.no_addresses, "waltz https://youtu.be/a?b=c,d www.site.de here", "waltz here"),
    (rules.no_addresses, "write to otto.l@post.example.de or bit.ly/xyz or вальс.com", "write to or or"),
    (rules.split_tags, "folk, banjo, slow", ["folk", "banjo", "slow"]),
    (rules.split_tags, "ピアノ、悲しい、ワルツ", ["ピアノ", "悲しい", "ワルツ"]),
    (rules.split_tags, "грустный вальс; фортепиано", ["грустный вальс", "фортепиано"]),
    (rules.split_tags, "Été indien | chanson", ["Été indien", "chanson"]),
    (rules.split_tags, "one long title of a song\nanother", ["one long title of a song", "another"]),
    (rules.no_boilerplate, "Waltz (Official Music Video) [HD]", "Waltz"), (rules.no_boilerplate, "Free Download", ""),
    (rules.no_boilerplate, "Été (clip officiel)", "Été"), (rules.no_boilerplate, "【公式】夜", "夜"),
    (rules.no_boilerplate, "вальс (Официальный клип)", "вальс"), (rules.no_boilerplate, "봄 (Official M/V)", "봄"),
    (rules.no_boilerplate, "Blue (2011 Remaster) 4K", "Blue"),
    (rules.no_years, "Blue (1975) [2009-11]", "Blue"), (rules.no_years, "青い【1999】", "青い"),
    (rules.tidy, " - Waltz ( slow ) |", "Waltz (slow)"), (rules.tidy, "вальс (", "вальс"),
    (rules.stop_tag, "YouTube", None), (rules.stop_tag, "música", None), (rules.stop_tag, "音楽", None),
    (rules.stop_tag, "Музыка!", None),
    (rules.no_letters, "1999", None), (rules.no_letters, "!!! - ♭", None),
    (rules.address, "my record is at https://x.y/z", None), (rules.address, "слушайте на пример.com", None),
    (rules.credits, "Provided to YouTube by Someone", None), (rules.credits, "℗ 2019 Sony", None),
    (rules.credits, "Composer： 久石譲", None), (rules.credits, "No copyright infringement intended.", None),
    (rules.request, "Can someone post the lyrics?", None), (rules.request, "letra por favor", None),
    (rules.request, "歌詞を教えてください", None), (rules.request, "Кто знает слова?", None),
    (rules.request, "what is the name of this song?", None), (rules.request, "Song at 3:20?", None),
    (rules.spam, "Subscribe to my channel!", None), (rules.spam, "suscríbete ya", None),
    (rules.spam, "Подписывайтесь на канал", None), (rules.spam, "チャンネル登録お願いします", None),
    (rules.spam, "who's still listening in 2024", None), (rules.spam, "FIRST!!", None),
    (rules.spam, "like if you cried", None), (rules.spam, "Follow me on there", None),
    (rules.spam, "Available now on all platforms", None),
    (rules.emoji_flood, "🔥🔥🔥🔥 nice beat", None), (rules.emoji_flood, "❤❤❤❤❤", None),
    (rules.shouting, "这首歌的钢琴很美 BEST SONG OF THE WHOLE YEAR", None),
    (rules.shouting, "BEST SONG OF THE WHOLE YEAR", None), (rules.shouting, "ЛУЧШАЯ ПЕСНЯ ЭТОГО ГОДА ДРУЗЬЯ", None),
    (rules.shouting, "THE WALTZES ARE IN MAJOR", None), (rules.shouting, "SLOW WALTZ FOR ANNAS slow", None),
    (rules.repetition, "this is so goooooood", None), (rules.repetition, "哈哈哈哈哈哈", None),
    (rules.repetition, "na na NA na hey", None), (rules.repetition, "да да да да", None),
    (rules.time_stamps, "The solo at 2:31 is wild", "The solo is wild"),
    (rules.time_stamps, "в 1:02:33 вступает хор", "вступает хор"), (rules.time_stamps, "0:00 Intro", None),
    (rules.time_stamps, "3:05 - ピアノ", None),
    (rules.too_short, "so good", None), (rules.too_short, "いい曲", None), (rules.too_short, "...!", None),
]
UNCHANGED = [
    (rules.plain_characters, "naïve café, Ström – Łódź"), (rules.plain_characters, "می\u200cخواهم"),
    (rules.plain_characters, "क्\u200dष संगीत"),
    (rules.no_symbols, "B♭ minor, C♯, 50%"), (rules.no_symbols, "夜に駆ける"), (rules.no_symbols, "^_^ + ~"),
    (rules.hashtags, "F# minor"), (rules.hashtags, "#1 hit"), (rules.hashtags, "ド# マイナー"),
    (rules.no_addresses, "Mr.Smith and the no.5"), (rules.no_addresses, "вальс.мажор"),
    (rules.no_addresses, "sad.slow/mid-tempo"),
    (rules.split_tags, "Earth, Wind & Fire"), (rules.split_tags, "Crosby, Stills, Nash & Young"),
    (rules.split_tags, "1,000,000 miles"),
    (rules.split_tags, "a song about a ferry in the rain, slow, with strings that never end"), (rules.split_tags, "静かな夜、長い道"),
    (rules.no_boilerplate, "The Official Anthem"), (rules.no_boilerplate, "Video Killed the Radio Star"),
    (rules.no_boilerplate, "Blue (live in Köln)"), (rules.no_boilerplate, "歌 (ライブ)"), (rules.no_boilerplate, "Hymn (♭)"),
    (rules.no_years, "1999"), (rules.no_years, "Blue (take 1975)"), (rules.no_years, "七月 (No. 12)"),
    (rules.tidy, "Waltz (slow)"), (rules.tidy, "#1 of the year"), (rules.tidy, "夜-昼"),
    (rules.stop_tag, "sad music"), (rules.stop_tag, "грустная музыка"), (rules.stop_tag, "音楽室"),
    (rules.no_letters, "7 rings"), (rules.no_letters, "夜"), (rules.no_letters, "ß"),
    (rules.address, "warm.The strings"), (rules.address, "красиво.Очень"),
    (rules.credits, "guitar: warm and slow"), (rules.credits, "mixed with great care"), (rules.credits, "très mixte"),
    (rules.request, "The lyrics are whispered over a drone"), (rules.request, "post-rock with someone whispering lyrics"),
    (rules.request, "What a slow and lyric waltz!"), (rules.request, "слова звучат тихо"), (rules.request, "歌詞が静かで美しい"),
    (rules.spam, "It's like if Bach had a drum machine"), (rules.spam, "the strings follow the voice"),
    (rules.spam, "first the harp, then the choir"), (rules.spam, "the guitar is in my left ear"),
    (rules.spam, "подпевает хор"), (rules.spam, "この曲は静かです"),
    (rules.emoji_flood, "lovely slow beat 🔥🔥"), (rules.emoji_flood, "a harp and a flute and a choir 🔥🔥🔥🔥"),
    (rules.emoji_flood, "静かな夜"),
    (rules.shouting, "R.E.M. and ABBA in the USA"), (rules.shouting, "这首歌的钢琴很美这首歌的钢琴很美这首歌的钢琴很美"), (rules.shouting, "DJ SET"),
    (rules.shouting, "THE WALTZ IS IN D MAJORS"), (rules.shouting, "ВАЛЬС ЗВУЧИТ ТИХО ТУТ"), (rules.shouting, "SLOW WALTZ FOR ANNA slow"),
    (rules.repetition, "sooo good..........."), (rules.repetition, "in 1000000 years"),
    (rules.repetition, "very very slow, very"), (rules.repetition, "哈哈哈"),
    (rules.time_stamps, "in 4/4 at 120 bpm, 1:1 mix"), (rules.time_stamps, "в ля минор"),
    (rules.too_short, "a slow waltz"), (rules.too_short, "ピアノが静か"), (rules.too_short, "очень тихая музыка"),
]


@pytest.mark.parametrize("rule, text, expected", CHANGED, ids=lambda value: getattr(value, "__name__", None))
def test_a_rule_changes_its_texts(rule, text, expected):
    assert squeeze(rule(text)) == squeeze(expected)


def squeeze(result):
    """Removes the spaces that a rule may leave, because `tidy` removes them later."""
    if isinstance(result, list):
        return [" ".join(part.split()) for part in result]
    return None if result is None else "\n".join(" ".join(line.split()) for line in result.split("\n"))


@pytest.mark.parametrize("rule, text", UNCHANGED, ids=lambda value: getattr(value, "__name__", None))
def test_a_rule_leaves_other_texts_alone(rule, text):
    assert rule(text) == text


def test_every_rule_has_both_kinds_of_examples_some_not_ascii():
    functions = {function for table in (RULES_SF, RULES_LF) for _, function, _ in table} - {rules.sentences}
    for examples in (CHANGED, UNCHANGED):
        assert {function for function, *_ in examples} == functions
        assert {function for function, text, *_ in examples if not text.isascii()} == functions
    for table in (RULES_SF, RULES_LF):
        assert len({name for name, _, _ in table}) == len(table) and all(reason for _, _, reason in table)


# ---- all rules together ----------------------------------------------------------------

TOKENS = ["waltz", "Sad", "café", "грустный", "वीणा", "संगीत", "夜に駆ける", "音楽", "피아노", "می\u200cخواهم", "(", ")", "[", "]", "【",
          "】", "「", "(Official Video)", "official", "music video", "HD", "(1999)", "2009", "#sad", "#", "#音楽#夜", "F#", "🔥",
          "👩\u200d🎤", "\u200d", "☕\ufe0f", "♭", "★", ",", ", ", ";", "|", "、", "。", "！", ".", "...", "…", "!", "?", "\n",
          " - ", "-", "~", "https://a.b/c", "x.com", "2:31", "at 2:31", "0:00 Intro", "feat.", "No. 5", "\"", "’", "´",
          "e\u0301", "Ａ", "𝐛", "ﬁ", "\ud83c", "\x00", "&", "and", "AAAA", "oooooo", "na na na", "&amp;", "a b c d", "1,000",
          "ß", "İ", "ǆ"]


def soups(count, seed):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        words = rng.choice(len(TOKENS), rng.integers(1, 14))
        yield rng.choice(["", " "]).join(TOKENS[i] for i in words)


@pytest.mark.parametrize("table", [RULES_SF, RULES_LF], ids=["sf", "lf"])
def test_cleaning_what_is_clean_changes_nothing(table):
    kept_count = 0
    for soup in soups(1500, 0):
        kept, _ = clean(soup, table)
        kept_count += len(kept)
        for text in kept:
            assert clean(text, table) == ([text], []), soup
            assert text == text.strip() and "  " not in text and re.sub("[\u200c\u200d]", "", text).isprintable()
    assert kept_count > 300


def test_each_rule_has_a_fixed_point():
    """After a few rounds, because a list may hold lists, and brackets may hold brackets."""
    for table in (RULES_SF, RULES_LF):
        for name, rule, _ in table:
            for soup in soups(400, 1):
                texts = [soup]
                for _round in range(4):
                    texts = [part for text in texts for part in clean_once(rule, text)]
                assert [part for text in texts for part in clean_once(rule, text)] == texts, (name, soup)


def clean_once(rule, text):
    result = rule(text)
    return [part for part in squeeze([result] if isinstance(result, str) else result or []) if part]


def test_sentences_lose_nothing_but_spaces():
    for soup in soups(800, 2):
        assert "".join("".join(rules.sentences(soup)).split()) == "".join(soup.split())


def test_plain_characters_is_nfkc_but_for_symbols():
    """The oracle is unicodedata's NFKC of the whole text, on random letters, digits and punctuation of all of Unicode."""
    usable = [chr(i) for i in range(32, 0x30000) if unicodedata.category(chr(i))[0] in "LNP" and chr(i) not in "‘’"]
    rng = np.random.default_rng(0)
    for _ in range(300):
        text = "".join(usable[i] for i in rng.integers(0, len(usable), 30))
        expected = " ".join(unicodedata.normalize("NFKC", text).split())
        assert rules.plain_characters(text) == expected


def test_letters_of_every_script_survive():
    """Neither table changes words of random letters and marks of one script."""
    scripts = ("LATIN SMALL", "CYRILLIC SMALL", "GREEK SMALL", "DEVANAGARI", "ARABIC LETTER", "HEBREW LETTER", "HANGUL SYLLABLE",
               "CJK UNIFIED", "HIRAGANA LETTER", "THAI CHARACTER", "ARMENIAN SMALL", "ETHIOPIC SYLLABLE")
    rng = np.random.default_rng(0)
    for script in scripts:
        chars = [chr(i) for i in range(0x61, 0xD7A4) if unicodedata.name(chr(i), "").startswith(script)
                 and unicodedata.category(chr(i))[0] in "LM" and unicodedata.normalize("NFKC", chr(i)) == chr(i)]
        assert len(chars) > 20
        for _ in range(20):
            letters = [char for char in chars if char.isalpha()]
            words = [rng.choice(letters) + "".join(rng.choice(chars, 5)) for _ in range(4)]
            text = unicodedata.normalize("NFC", " ".join(words))
            assert clean(text, RULES_SF) == ([text], []) and clean(text, RULES_LF) == ([text], []), script


def test_every_word_is_kept_or_dropped():
    """Each sentence holds a numbered word. Each such word must occur once, in the kept or in the dropped texts."""
    frames = ["waltz w{} is slow and warm.", "Subscribe to w{} and my channel!", "w{}", "see https://x.y w{}",
              "LOUD W{} " + "LOUD " * 5, "#w{}", "w{} 🔥🔥🔥🔥", "素晴らしい w{}。", "0:00 w{}", "The harp at 2:31 says w{}."]
    rng = np.random.default_rng(3)
    for table in (RULES_SF, RULES_LF):
        for _ in range(200):
            chosen = [frames[i] for i in rng.integers(0, len(frames), 5)]
            kept, dropped = clean("\n".join(frame.format(n) for n, frame in enumerate(chosen)), table)
            everything = " ".join(kept + [text for _, text in dropped]).lower()
            assert all(everything.count(f"w{n}") == 1 for n in range(5)), (chosen, kept, dropped)
            assert {rule for rule, _ in dropped} <= {name for name, _, _ in table}


def test_both_tables_on_whole_texts():
    assert clean("Otto - Waltz (Official Video) [HD] (2009)", RULES_SF) == (["Otto - Waltz"], [])
    assert clean("Waltz 🎹 #viral #LoFi https://y.be/1", RULES_SF) == (["Waltz", "LoFi"], [("stop-tags", "viral")])
    assert clean("【公式】夜に駆ける（Official Music Video）| 1999", RULES_SF) == (["夜に駆ける"], [("no letters", "1999")])
    comment = "Love the harp at 2:31, feat. Ann. Subscribe to me! 0:00\nhttps://a.b records 🔥\nОчень тихий вальс ❤"
    assert clean(comment, RULES_LF) == (["Love the harp, feat. Ann.", "Очень тихий вальс"], [
        ("spam", "Subscribe to me!"), ("time stamps", "0:00"), ("addresses", "https://a.b records 🔥")])


def test_a_rule_can_be_added():
    table = (*RULES_SF, ("karaoke", lambda text: None if "karaoke" in text.casefold() else text, "the voice is missing"))
    assert clean("Waltz; Karaoke version", table) == (["Waltz"], [("karaoke", "Karaoke version")])


def test_changes_are_counted_by_rule():
    counts = Counter()
    clean("Waltz (1999), slow, sad", RULES_SF, counts)
    assert counts == {"split": 1, "years": 1}


@pytest.mark.parametrize("unit", ["a", "a.", "夜", "(", "()", "#a", "a-", "HD ", "1:23 ", "a, ", "🔥", "na ", ".", "a@",
                                  "official ", "\n", "(1999) ", "www."])
def test_no_text_takes_long(unit):
    text = (unit * 20_000)[:20_000]
    began = time.process_time()
    clean(text, RULES_SF)
    clean(text, RULES_LF)
    assert time.process_time() - began < 10
