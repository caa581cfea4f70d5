"""The texts are checked against a table of keywords written by hand, and a bag-of-words model learns from them."""
import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mulan_min.demo import words
from mulan_min.demo.pieces import FAMILIES, plan_pieces

# What each word claims to a listener. Longer phrases are matched first, so that "electric piano" does not claim a piano.
KEYWORDS = {
    "waltz": "waltz|three-four|ballroom|triple-time|three beats|one-two-three|couples",
    "techno": "techno|warehouse|machine-made|machine|Detroit-style|Detroit",
    "house": "house|Chicago-style|club|disco-born|disco",
    "drum and bass": "drum and bass|dnb|breakbeat|amen|sub-bass",
    "ambient": "ambient|beatless|atmospheric|drone|without any drums",
    "blues": "blues|bluesy|twelve-bar|twelve bars|delta",
    "swing": "swing|swinging|big-band|jazz|walking upright bass|ride cymbal",
    "folk": "folk|traditional|country-side|village|fireside",
    "bossa nova": "bossa nova|Copacabana|Brazil|Brazilian|Rio|clave",
    "march": "march|parade|military|marching-band|boots",
    "reggae": "reggae|Jamaica|Jamaican|roots|one-drop|offbeat",
    "rock": "rock|rock and roll|riffs|stadium|backbeat",
    "hip hop": "hip hop|boom-bap|bap|rap|rhyme|head-nodding",
    "funk": "funk|funky|groove-heavy|slap-bass|slaps",
    "piano": "piano|grand piano|upright piano|ivories|black and white keys|hammers",
    "electric piano": "electric piano|Rhodes|Wurlitzer|e-piano|tines",
    "organ": "organ|Hammond|pipes|drawbars", "accordion": "accordion|concertina|musette|bellows|wheezing",
    "banjo": "banjo|five-string|bluegrass|twanging",
    "acoustic guitar": "acoustic guitar|wooden guitar|unplugged guitar|six-string|campfire",
    "electric guitar": "electric guitar|amplified guitar|plugged-in guitar|Stratocaster|amplifier|distortion",
    "harp": "harp|arpeggios", "violin": "violin|Stradivarius|rosin",
    "flute": "flute|whistling|breath blown", "clarinet": "clarinet|reed woodwind|chalumeau",
    "trumpet": "trumpet|horn|brass|fanfare", "vibraphone": "vibraphone|vibes|mallet|mallets",
    "bells": "bells|chimes|bronze|clanging", "synthesizer": "synthesizer|synth|polysynth|oscillators",
    "choir": "choir|chorus|voices|vocal ensemble|vowel",
    "happy": "happy|cheerful|joyous|joy|sunny|sunshine|smile",
    "sad": "sad|melancholy|sorrowful|tearful|tears|goodbye", "calm": "calm|peaceful|peace|relaxed|serene",
    "energetic": "energetic|lively|high-energy|powerful|adrenaline|sweat",
    "tense": "tense|anxious|nervous|suspenseful|danger|threat",
    "dreamy": "dreamy|hazy|floating|otherworldly|mist", "slow": "slow|unhurried|leisurely|lazy|stroll",
    "mid-tempo": "mid-tempo|moderate|medium-paced|walking-pace", "fast": "fast|quick|rapid|up-tempo|racing",
    "sparse": "sparse|bare|minimal|uncluttered|silence|empty|handful",
    "busy": "busy|crowded|dense|packed|players at once|all the time",
    "dry": "dry|close-miked|intimate|up-close|inch",
    "reverberant": "reverberant|echoing|echoes|cavernous|reverb-soaked|reverb|hall",
    "lo-fi": "lo-fi|crackly|tape|hissy"}
LABEL_OF = {word.lower(): label for label, keywords in KEYWORDS.items() for word in keywords.split("|")}
LONGEST_FIRST = "|".join(map(re.escape, sorted(LABEL_OF, key=len, reverse=True)))
ANY_KEYWORD = re.compile(rf"(?<!\w)({LONGEST_FIRST})(?!\w)")


def claims(text):
    """Returns the labels that a text claims."""
    return {LABEL_OF[word] for word in ANY_KEYWORD.findall(text.lower())}


@pytest.fixture(scope="module")
def pieces():
    return plan_pieces(2400, seed=0)


@pytest.fixture(scope="module")
def written(pieces):
    """A list of (piece, texts by source, truth of the long form)."""
    return [(piece, *words.texts(piece)) for piece in pieces]


@pytest.fixture(scope="module")
def test_pieces(pieces):
    return [piece for piece in pieces if piece.split == "test"]


def test_the_text_files_are_complete_and_are_installed_with_the_package():
    """An editable installation finds the files anyway, so only this test notices when a wheel would lack them."""
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert '"mulan_min.demo" = ["*.txt"]' in pyproject
    assert list(words.WORDINGS) == words.labels()["all"]
    assert {len(facets) for facets in words.FACETS.values()} == {3} and {len(names) for names in words.ARTISTS.values()} == {2}
    attributes = {"genre", "mood", "tempo", "density", "production"}
    for activity in words.ACTIVITIES:
        assert len(activity["titles"]) == 3 and len(activity["details"]) == 2
        for field in activity.keys() - {"titles", "details"}:
            assert field in attributes and set(activity[field]) <= set(FAMILIES[field])


def test_words_are_true_of_the_piece(written):
    seen = Counter()
    for piece, sources, _ in written:
        for text in (text for texts in sources.values() for text in texts):
            seen.update(claims(text))
            assert claims(text) <= set(piece.tags), (text, piece)
    assert set(seen) == set(LABEL_OF.values()) and min(seen.values()) > 200


def test_every_label_has_three_trained_wordings_and_its_own_name_is_the_most_frequent(written):
    count = Counter()
    for piece, sources, _ in written:
        if piece.split == "train":
            text = " . ".join(text.lower() for texts in sources.values() for text in texts)
            for label in sorted(piece.tags, key=len, reverse=True):
                for facet in words.FACETS[label]:      # "soft mallets on metal bars" does not count as "mallets"
                    text = text.replace(facet.lower(), "")
                for word in sorted(words.WORDINGS[label], key=len, reverse=True):      # nor does "vibes and mallets"
                    text, times = re.subn(rf"(?<!\w){re.escape(word.lower())}(?!\w)", "", text)
                    count[label, word] += times
    for label in words.labels()["all"]:
        others = [count[label, word] for word in words.WORDINGS[label][1:]]
        assert len(others) >= 3 and min(others) >= 20
        assert count[label, label] > max(others), label


def test_three_in_four_phrases_of_a_slot_are_the_label_itself(written):
    for piece, _, _ in written[:40]:
        slots = words._slots(piece)
        for slot in ("genre", "lead", "mood", "tempo", "density", "production"):
            label = getattr(piece, slot)
            assert slots[slot].count(label) == 0.75 * len(slots[slot])
            assert set(slots[slot]) == set(words.WORDINGS[label])


def test_held_out_synonyms_are_in_no_text(written, test_pieces):
    everything = [text for _, sources, _ in written for texts in sources.values() for text in texts]
    playlists = words.playlists(test_pieces)
    everything += [row[key] for row in playlists for key in ("title", "description")]
    everything = " . ".join(everything + list(words.DESCRIPTIONS.values())).lower()
    count = lambda word: len(re.findall(rf"\b{re.escape(word.lower())}\b", everything))
    assert count("accordion") > 100   # the search finds words
    held_out = words.labels()["held_out_synonyms"]
    assert len(held_out) >= 22 and not [word for word in held_out if count(word)]


def test_tags_are_labels_and_held_out_synonyms(pieces):
    sets = words.labels()
    assert {name: sets[name] for name in FAMILIES} == FAMILIES
    assert sets["all"] == [label for family in FAMILIES.values() for label in family]
    assert not set(sets["all"]) & set(sets["held_out_synonyms"])
    piece = replace(pieces[0], lead="accordion", backing=("violin",), mood="sad", genre="rock")
    assert {"accordion", "squeezebox", "violin", "fiddle", "sad", "gloomy"} <= set(words.tags(piece))
    assert "joyful" not in words.tags(piece)
    tagged = Counter(tag for piece in pieces for tag in words.tags(piece))
    assert tagged["squeezebox"] == tagged["accordion"]
    assert set(tagged) == {*sets["all"], *sets["held_out_synonyms"]}


def test_sources_have_their_sizes_and_gaps(written):
    sizes = {"sf": (8, 12), "lf": (5, 8), "pl": (3, 5), "aset": (6, 6)}
    for source, missing in {"sf": 0, "lf": 0.10, "pl": 0.20, "aset": 0.15}.items():
        present = [sources[source] for _, sources, _ in written if source in sources]
        assert 1 - len(present) / len(written) == pytest.approx(missing, abs=0.025)
        assert {len(texts) for texts in present} == set(range(sizes[source][0], sizes[source][1] + 1))
        assert all(len(set(texts)) == len(texts) for texts in present)
        assert all(text.strip() and "{" not in text for texts in present for text in texts)
    labels = [text.split(", ") for _, sources, _ in written for text in sources.get("aset", ())]
    assert {len(names) for names in labels} == {1, 4, 6, 7}      # 6: all that a piece without backing has
    assert max(len(label.split()) for names in labels for label in names) <= 4


def test_off_topic_comments_are_marked_and_never_mention_music(written):
    rows = [row for *_, truth in written for row in truth]
    assert np.mean([not about for _, about in rows]) == pytest.approx(0.20, abs=0.03)
    assert not [text for text, about in rows if not about and claims(text)]
    phrases = {label: [phrase.lower() for phrase in (*wordings, *words.FACETS[label])]
               for label, wordings in words.WORDINGS.items()}
    for text, about in rows:
        mentioned = [label for label in phrases if any(phrase in text.lower() for phrase in phrases[label])]
        assert not about or len(mentioned) >= 2, text
    for _, sources, truth in written:
        assert [text for text, _ in truth] == sources.get("lf", [])


def test_texts_depend_on_the_piece_only(pieces, written):
    for index in (5, 1, 2399):
        assert words.texts(pieces[index])[0] == written[index][1]
    assert words.texts(replace(pieces[5], seed=pieces[5].seed + 1))[0] != written[5][1]


def test_artists_have_a_style(written):
    styles = defaultdict(list)
    names = {name for pair in words.ARTISTS.values() for name in pair}
    for piece, sources, _ in written:
        artist = next(part for text in sources["sf"] for part in text.split(" - ") if part in names)
        styles[artist].append({piece.genre, piece.lead})
    assert len(styles) == len(names) == 60 and all(set.intersection(*style) for style in styles.values())


def test_playlists_hold_exactly_the_pieces_that_their_titles_promise(test_pieces):
    playlists = words.playlists(test_pieces)
    assert len(playlists) >= 60 and len({row["title"] for row in playlists}) == len(playlists)
    checked = Counter()
    activities = {   # some of the rules, written again by hand
        "workout|gym|run": lambda piece: piece.mood == "energetic" and piece.tempo != "slow",
        "stargazing|planetarium|telescope": lambda piece: piece.mood == "dreamy",
        "asleep|bedtime|lights out": lambda piece: piece.mood in ("calm", "dreamy") and piece.tempo == "slow",
        "kitchen|tidying|washing": lambda piece: piece.mood == "happy" and piece.tempo == "fast"}
    for row in playlists:
        assert len(row["tracks"]) >= 3 and set(row["tracks"]) <= {piece.id for piece in test_pieces}
        assert row["title"].lower() not in words.DESCRIPTIONS and row["title"] != row["description"]
        promised = claims(row["title"])
        assert claims(row["description"]) == promised
        title = row["title"].lower()
        rule = next((activities[pattern] for pattern in activities if re.search(pattern, title)), None)
        checked["rule" if rule else len(promised)] += 1
        if promised:   # by genre, or by mood and lead instrument
            rule = lambda piece: promised <= {piece.genre, piece.lead, piece.mood}
        if rule:
            assert row["tracks"] == [piece.id for piece in test_pieces if rule(piece)], row["title"]
    assert (checked["rule"], checked[0], checked[1]) == (4, 14, 14) and checked[2] >= 30


def test_small_worlds_have_playlists_too():
    pieces = [piece for piece in plan_pieces(30, seed=1) if piece.split == "test"]
    assert 2 <= len(words.playlists(pieces)) and words.triplets(words.playlists(pieces))


def test_triplets_are_complete_and_use_no_training_text(written, test_pieces):
    playlists = words.playlists(test_pieces)
    rows = words.triplets(playlists)
    assert all(row["positive"] != row["negative"] != row["anchor"] for row in rows)
    ontology = [row for row in rows if row["set"] == "ontology"]
    anchors = Counter(row["anchor"] for row in ontology)
    assert anchors == dict.fromkeys(words.labels()["all"], 10)
    label_of = {description: label for label, description in words.DESCRIPTIONS.items()}
    assert len(label_of) == 44 and all(label_of[row["positive"]] == row["anchor"] for row in ontology)
    near = [row for row in ontology if any({row["anchor"], label_of[row["negative"]]} <= set(family)
                                           for family in FAMILIES.values())]
    assert {row["anchor"] for row in near} == set(anchors)
    assert Counter(row["anchor"] for row in rows if row["set"] == "playlist") == Counter(
        {row["title"]: 10 for row in playlists})
    trained = {text.lower() for _, sources, _ in written for texts in sources.values() for text in texts}
    assert not trained & {row[key].lower() for row in rows for key in ("positive", "negative")}


def test_a_bag_of_words_learns_the_triplets(written, test_pieces):
    """Each word is represented by the tags of the training recordings whose texts contain it: the triplets can be learned."""
    labels = words.labels()["all"]
    train = [(piece, sources) for piece, sources, _ in written if piece.split == "train"]
    tags = np.array([[label in piece.tags for label in labels] for piece, _ in train], float)
    tags = (tags - tags.mean(0)) / tags.std(0)
    tokens = lambda text: re.findall(r"[a-z0-9]+", text.lower())
    rows_of = defaultdict(list)   # word: training recordings with this word in a text
    for row, (_, sources) in enumerate(train):
        for word in {word for texts in sources.values() for text in texts for word in tokens(text)}:
            rows_of[word].append(row)
    vectors = {word: tags[rows].sum(0) / (len(rows) + 8) for word, rows in rows_of.items()}

    def embed(text):
        total = sum((vectors[word] for word in tokens(text) if word in vectors), np.zeros(len(labels)))
        return total / (np.linalg.norm(total) + 1e-9)

    correct = defaultdict(list)
    for row in words.triplets(words.playlists(test_pieces)):
        anchor, positive, negative = (embed(row[key]) for key in ("anchor", "positive", "negative"))
        correct[row["set"]].append(anchor @ positive > anchor @ negative)
    assert np.mean(correct["ontology"]) > 0.97 and np.mean(correct["playlist"]) > 0.97
