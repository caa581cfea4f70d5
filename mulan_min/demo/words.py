"""What people write about the pieces of the demo world: titles, tags, comments, playlists and class labels.

All texts are true of their piece, except the comments that are not about music. They are made from the phrases and templates in
labels.txt, activities.txt and templates.txt. A label has several wordings and facets (noun phrases for what it sounds like). They
teach a text tower that "three beats to the bar" and "waltz" belong together. All of it is our choice; the paper's texts come from
the web.
"""
import re

import numpy as np

from mulan_min.demo.pieces import FAMILIES, read_entries

_CLASS_LABELS = {"genre": "{} music", "lead": "{}", "backing": "{}", "mood": "{} music", "tempo": "{} music",
                 "density": "{} texture", "production": "{} recording"}
_KEYS = "C, D flat, D, E flat, E, F, G flat, G, A flat, A, B flat, B".split(", ")

OFF_TOPIC_SHARE = 0.2                               # of the long-form comments
MISSING = {"lf": 0.10, "pl": 0.20, "aset": 0.15}    # share of recordings without the source
MIN_MEMBERS = 3                                     # smallest playlist
NEGATIVES = 10                                      # triplets for each label and for each playlist

ACTIVITIES = read_entries("activities.txt")
_TEMPLATES, _FILLERS = read_entries("templates.txt")
_LABELS = {entry["label"][0]: entry for entry in read_entries("labels.txt")}
WORDINGS = {label: [label, *entry["wordings"]] for label, entry in _LABELS.items()}
SYNONYMS = {label: entry["synonym"][0] for label, entry in _LABELS.items() if "synonym" in entry}
ARTISTS = {label: entry["artists"] for label, entry in _LABELS.items() if "artists" in entry}
FACETS = {label: entry["facets"] for label, entry in _LABELS.items()}
DESCRIPTIONS = {label: entry["description"][0] for label, entry in _LABELS.items()}


def labels():
    """Returns {set name: list of labels}: one set for each family, "all" labels, and the "held_out_synonyms"."""
    return {**FAMILIES, "all": sum(FAMILIES.values(), []), "held_out_synonyms": list(SYNONYMS.values())}


def tags(piece):
    """Returns all labels that are true of the piece, then the held-out synonyms of these labels."""
    return piece.tags + [SYNONYMS[label] for label in piece.tags if label in SYNONYMS]


def texts(piece):
    """Returns ({"sf": list of str, "lf": ..., "pl": ..., "aset": ...}, truth). The same piece always gives the same texts.

    A piece may have no text of a source; its key is then missing. `truth` holds (text, about_music) for each long-form text.
    """
    rng, slots = np.random.default_rng((piece.seed, 2)), _slots(piece)
    artist = _pick(ARTISTS[piece.genre] + ARTISTS[piece.lead], rng)
    title = _capitalise(_compose("titles", slots, rng))
    first = [title, artist] if rng.random() < 0.5 else [f"{artist} - {title}"]
    tag_list = lambda: ", ".join(wording for _, wording in _attributes(slots, rng))
    class_labels = lambda: ", ".join(_capitalise(_CLASS_LABELS[slot].format(wording)) for slot, wording in _attributes(slots, rng))
    sources = {"sf": _distinct(lambda: tag_list() if rng.random() < 0.8 else _compose("tags", slots, rng),
                               int(rng.integers(8, 13)), first)}
    truth, comments = {}, rng.integers(5, 9)
    while len(truth) < comments:
        about_music = bool(rng.random() >= OFF_TOPIC_SHARE)
        comment = _compose("sentences" if about_music else "off_topic", slots, rng, int(rng.integers(2, 6)))
        truth[_capitalise(comment)] = about_music
    sources["lf"] = list(truth)
    sources["pl"] = _distinct(lambda: _compose("playlists", slots, rng), int(rng.integers(3, 6)))
    sources["aset"] = _distinct(class_labels, 6)
    sources = {name: content for name, content in sources.items() if rng.random() >= MISSING.get(name, 0)}
    return sources, list(truth.items()) if "lf" in sources else []


def playlists(pieces, seed=0):
    """Returns a list of {"title", "description", "tracks": ids}, each with MIN_MEMBERS or more of `pieces`.

    There is one playlist for each genre, for each pair of mood and lead instrument, and for each activity. Title and
    description are new combinations of phrases from the training texts. They never share a phrase.
    """
    rng, rows = np.random.default_rng((seed, 3)), []

    def add(belongs, title, description):
        tracks = [piece.id for piece in pieces if belongs(piece)]
        if len(tracks) >= min(MIN_MEMBERS, 1 + len(pieces) // 20):   # small worlds for tests need some playlists, too
            rows.append({"title": _capitalise(title), "description": _capitalise(description), "tracks": tracks})

    for genre in FAMILIES["genre"]:
        first, second, third = (str(word) for word in rng.permutation(WORDINGS[genre][1:]))
        facet, other_facet = rng.permutation(FACETS[genre])[:2]
        add(lambda piece: piece.genre == genre,
            f"the best {first} tunes of {_pick(('all time', 'the year', 'our street'), rng)}",
            f"{facet} and {other_facet}, for friends of {second} or {third} music")
    for mood in FAMILIES["mood"]:
        for lead in FAMILIES["instrument"]:
            moods, leads = rng.permutation(WORDINGS[mood][1:]), rng.permutation(WORDINGS[lead])
            lead_facet, mood_facet = _pick(FACETS[lead], rng), _pick(FACETS[mood], rng)
            add(lambda piece: (piece.mood, piece.lead) == (mood, lead),
                f"{moods[0]} {leads[0]} {_pick(('favourites', 'evenings', 'gems', 'hour'), rng)}",
                f"{lead_facet} with {mood_facet}: {moods[1]} music with {leads[1]}")
    for activity in ACTIVITIES:
        first, second = rng.permutation(activity["titles"])[:2]
        add(lambda piece: _suits(piece, activity), f"{first} and {second}", "music for {} and for {}".format(*activity["details"]))
    return rows


def triplets(playlists, seed=0):
    """Returns a list of {"set", "anchor", "positive", "negative"}. Negatives are the descriptions of other entries.

    Set "ontology": a label and its description; up to half of its negatives come from its own family. Set "playlist": a title
    and its description, for each of `playlists`.
    """
    rng, rows = np.random.default_rng((seed, 4)), []
    for family in FAMILIES.values():
        for label in family:
            near = rng.permutation([other for other in family if other != label])[:NEGATIVES // 2]
            far = rng.permutation([other for other in DESCRIPTIONS if other not in family])[:NEGATIVES - len(near)]
            rows += [{"set": "ontology", "anchor": label, "positive": DESCRIPTIONS[label],
                      "negative": DESCRIPTIONS[str(other)]} for other in (*near, *far)]
    for i, playlist in enumerate(playlists):
        others = [other for j, other in enumerate(playlists) if j != i]
        rows += [{"set": "playlist", "anchor": playlist["title"], "positive": playlist["description"],
                  "negative": others[j]["description"]} for j in rng.permutation(len(others))[:NEGATIVES]]
    return rows


def _suits(piece, activity):
    """Returns whether each attribute of the piece that an activity names has one of the values that it allows."""
    return all(getattr(piece, field) in values for field, values in activity.items() if field not in ("titles", "details"))


def _slots(piece):
    """Returns {slot: phrases that are true of the piece}. Three in four wordings of a label are the label itself."""
    doing = [phrase for activity in ACTIVITIES if _suits(piece, activity) for phrase in activity["titles"] + activity["details"]]
    slots = {**_FILLERS, "style": [piece.genre], "key": [f"{_KEYS[piece.key]} {piece.mode}"],
             "backing": [word for label in piece.backing for word in (label, *WORDINGS[label])],
             "activity": doing, "activity_f": doing}
    for slot in ("genre", "lead", "mood", "tempo", "density", "production"):
        label = getattr(piece, slot)
        slots[slot] = [label] * (3 * len(WORDINGS[label]) - 4) + WORDINGS[label]
        slots[slot + "_f"] = FACETS[label]
    return slots


def _pick(options, rng):
    return options[int(rng.integers(len(options)))]


def _distinct(write, count, first=()):
    """Returns `count` different texts: those in `first`, then results of write()."""
    written = dict.fromkeys(first)
    while len(written) < count:
        written[write()] = None
    return list(written)


def _compose(kind, slots, rng, count=1):
    """Fills the slots of `count` different templates of a kind. A phrase is used twice only when the slot has no other phrase.

    A template is used only when the piece has a phrase for each of its slots.
    """
    usable = [template for template in _TEMPLATES[kind] if all(slots[name] for name in re.findall(r"{(\w+)}", template))]
    used = set()

    def fill(slot):
        phrase = _pick([phrase for phrase in slots[slot[1]] if phrase not in used] or slots[slot[1]], rng)
        used.add(phrase)
        return phrase

    text = re.sub(r"{(\w+)}", fill, " ".join(rng.choice(usable, count, replace=False)))
    return re.sub(r"\b([Aa]) (?=[aeiou](?!ne-))", r"\1n ", text)   # an organ, but a one-two-three sway


def _attributes(slots, rng):
    """Returns [(slot, wording)] for one, four, six or all seven of the attributes that the piece has, in random order."""
    present = [slot for slot in _CLASS_LABELS if slots[slot]]
    return [(slot, _pick(slots[slot], rng)) for slot in rng.permutation(present)[:_pick((1, 4, 6, 7), rng)]]


def _capitalise(text):
    return re.sub(r"(^|[.!?] )([a-z])", lambda match: match[1] + match[2].upper(), text)
