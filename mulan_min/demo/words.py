"""What people write about the pieces of the demo world: titles, tags, comments, playlists and class labels.

All texts are drawn from the tables below and are true of their piece, except the comments that are not about music. A label
has several wordings and facets (noun phrases for what it sounds like). They teach a text tower that "three beats to the bar"
and "waltz" belong together. All of it is our choice; the paper's texts come from the web.
"""
import re

import numpy as np

from mulan_min.demo.pieces import FAMILIES

# One label: label | other wordings | synonym that no text ever uses | invented artists
#   > facets: noun phrases; used in texts of all kinds except the short form
#   = our own description of the label, for the ontology triplets only; never a training text
_LABELS = """
waltz | three-four, ballroom, triple-time | viennese | Marguerite Salon, Otto Lindqvist
  > three beats to the bar; a one-two-three sway; steps for turning couples
  = Ballroom dancing with one strong and two light beats in every bar, so that couples sway and turn.
techno | warehouse, machine-made, Detroit-style | rave | Kontrol Unit 9, Vera Strobe
  > a hard kick drum on each beat; hypnotic machine loops; a warehouse at four in the morning
  = Hypnotic machine dancing for a dark warehouse, with a hard kick drum that never leaves the beat.
house | Chicago-style, club, disco-born | | Mister Saturday, Paradise Lift
  > open hi-hats between the kicks; a warm club groove; hands in the air on the dance floor
  = Club dancing born from disco, where hi-hats open between the kicks and hands go up in the air.
drum and bass | breakbeat, dnb, amen-break | jungle | Amen Republic, Subsonic Kid
  > chopped breakbeats over sub-bass; rattling broken snares; half-time bass under double-time drums
  = Chopped and rattling breakbeats, double-time drums over a deep sub-bass at half the speed.
ambient | beatless, atmospheric, drone | soundscape | Northern Lichen, Halcyon Drift
  > long tones without any drums; drifting washes of sound; air and texture instead of rhythm
  = Atmospheric washes and long tones that drift without drums, more texture than rhythm.
blues | twelve-bar, bluesy, delta | | Blind Willie Crane, Delta Rosie
  > twelve bars of three chords; bent blue notes; a shuffle with a story to tell
  = Three chords over twelve bars, a shuffle and bent notes, telling a story from the delta.
swing | big-band, swinging, jazz | jitterbug | Dukes of Fulton Street, Ella Marlowe
  > a walking upright bass; a ride cymbal that skips; long and short eighths in turn
  = Big-band jazz that skips along on the ride cymbal, over a walking bass in long and short eighths.
bossa nova | Brazilian, Copacabana, Rio-style | carioca | Joana Ipanema, Trio Corcovado
  > a soft clave on the rim; a breeze from the beach at Rio; syncopated chords from Brazil
  = Syncopated chords from Rio over a soft clave, as relaxed as a breeze on a beach of Brazil.
reggae | Jamaican, roots, one-drop | rocksteady | Kingston Irie Band, Brother Zion
  > chords on the offbeat; a one-drop drum on the third beat; a heavy bass line from Jamaica
  = Chords chop the offbeat and the drum drops on the third beat, with a heavy bass from Jamaica.
rock | rock and roll, riff-driven, stadium | | The Gravel Saints, Jake Tarmac
  > a loud backbeat; stadium riffs in straight eighths; drums hit with full force
  = Loud riffs and straight eighths with a full-force backbeat, meant for a stadium.
hip hop | boom-bap, rap, rhyming | | MC Lowercase, Cornerstore Poets
  > a head-nodding beat; boom and bap from kick and snare; a loop waiting for a rhyme
  = A head-nodding loop with a boom from the kick and a bap from the snare, waiting for a rhyme.
folk | traditional, village, country-side | rustic | Hazel and Thorn, Old Mill Company
  > a tune handed down by grandparents; a melody for the fireside; a song from the old village
  = Traditional songs of the village, a melody that grandparents handed down by the fireside.
funk | funky, groove-heavy, slap-bass | groovy | Sticky Fingers Union, Bootsy Malone
  > a tight sixteenth-note groove; a bass that pops and slaps; everything landing on the one
  = A tight groove of sixteenth notes that lands on the one, with a bass that slaps and pops.
march | parade, military, marching-band | martial | Third Regiment Band, Old Brigade of Ulm
  > left and right in step; a snare rolling down the street; a parade of boots and flags
  = Soldiers and flags on parade, boots in step left and right behind a rolling snare.
piano | grand piano, upright piano, ivories | pianoforte | Clara Weissman, Eighty-Eight Keys
  > hammers on strings; black and white keys; ten fingers on a keyboard
  = Black and white keys under ten fingers, each key throwing a hammer at the strings.
electric piano | Rhodes, Wurlitzer, e-piano | | Tony Tremolo, Rhodes Less Travelled
  > glassy tines; a mellow stage keyboard; the warm bark of struck metal rods
  = A mellow keyboard for the stage with glassy tines, metal rods that bark when they are struck.
organ | pipe organ, drawbar organ, Hammond | | Brother Anselm, Drawbar Dan
  > air blown through pipes; full chords from the drawbars; a Sunday chapel
  = Pipes filled with air or drawbars pulled out for full chords, as on Sunday in a chapel.
accordion | button accordion, concertina, musette | squeezebox | Musette Lacroix, Yannick Le Soufflet
  > bellows breathing in and out; wheezing reeds; a Paris street corner
  = Reeds that wheeze as the bellows breathe in and out, heard on a street corner in Paris.
acoustic guitar | wooden guitar, unplugged guitar, six-string | | Cedar Jones, Rosa Madera
  > fingers picking by the campfire; a hollow wooden body; a guitar that needs no plug
  = A hollow wooden body and fingers on the strings, no plug needed, as by a campfire.
electric guitar | amplified guitar, plugged-in guitar, Stratocaster | axe | Fender Bender, Ricky Voltage
  > a valve amplifier turned up; pickups and distortion; sustain from the speaker cone
  = Pickups feeding an amplifier and its speaker, with distortion and long sustain when turned up.
banjo | five-string, clawhammer banjo, bluegrass banjo | | Clem Hollow, Possum Creek Pickers
  > twanging strings over a drum skin; three-finger rolls; a back porch in the hills
  = Strings that twang over a skin, picked in three-finger rolls on a porch in the hills.
harp | concert harp, pedal harp, plucked harp | | Isolde Penhallow, Forty-Seven Strings
  > rippling arpeggios; strings plucked by both hands; a golden frame of strings
  = A tall golden frame whose strings are plucked with both hands in rippling arpeggios.
violin | bowed violin, Stradivarius, concert violin | fiddle | Anton Brezina, Madame Rosin
  > a bow drawn across the strings; rosin and vibrato; a high singing string
  = A bow with rosin on its hair drawn across four strings, high and singing with vibrato.
flute | silver flute, transverse flute, woodwind flute | flautist | Silvia Aria, Windward Ensemble
  > breath blown over an edge; airy whistling tones; a bird above the trees
  = Airy tones, almost whistling, from breath blown over an edge, like a bird in the trees.
clarinet | B-flat clarinet, black clarinet, reed woodwind | licorice stick | Benny Blackwood, Ebony Society
  > a hollow woody tone; one reed on a black tube; smooth low notes from the chalumeau
  = A black tube with one reed, hollow and woody in tone and smooth in the chalumeau.
trumpet | horn, brass, valve trumpet | | Miles Harbinger, Golden Valves
  > a bright brass blast; buzzing lips; a fanfare over the roofs
  = Lips buzzing into bright brass, for a blast or a fanfare that carries over the roofs.
vibraphone | vibes, mallets, vibes and mallets | vibraharp | Milt Carraway, The Four Mallets
  > soft mallets on metal bars; a shimmer from spinning discs; a mallet in either hand
  = Metal bars hit with soft mallets, whose shimmer comes from discs that spin below.
bells | chimes, tubular bells, church bells | carillon | Bronze Tower Guild, Magda Glocke
  > struck bronze; a tower calling over the town; clanging metal overtones
  = Bronze that is struck and clangs with metal overtones, calling from the tower of a town.
synthesizer | analogue synth, modular synth, polysynth | moog | Oscar Lator, Polysix Dreamers
  > filter sweeps; buzzing oscillators; knobs and patch cables
  = Oscillators that buzz through a filter, swept by knobs and joined by patch cables.
choir | singing voices, chorus, vocal ensemble | chorale | Saint Cecilia Singers, The Ninety Voices
  > many voices on one vowel; people singing in rows; aahs and oohs
  = People stand in rows and sing, many voices together on aahs, oohs and other vowels.
happy | cheerful, joyous, sunny | joyful |
  > a smile on every face; sunshine and good news; joy from start to end
  = Good news, joy and sunshine, bringing a smile to the face.
sad | melancholy, sorrowful, tearful | gloomy |
  > a heavy heart; tears held back; the ache of a goodbye
  = The ache of saying goodbye with a heavy heart, close to tears.
calm | peaceful, relaxed, serene | tranquil |
  > a still lake at dawn; nothing to worry about; peace and quiet
  = Quiet and at peace like a lake at dawn, without worry.
energetic | lively, high-energy, powerful | vigorous |
  > a rush of adrenaline; sweat and muscle; power in every bar
  = Power and muscle, with the rush of adrenaline that makes one sweat.
tense | anxious, nervous, suspenseful | edgy |
  > danger behind the door; nerves stretched tight; a threat in the dark
  = Nerves stretched by danger, a threat waiting in the dark behind a door.
dreamy | hazy, floating, otherworldly | ethereal |
  > a nap among clouds; moonlight on mist; a soft blur of colours
  = Clouds and mist by moonlight, a blur as if in a nap.
slow | unhurried, leisurely, lazy | sluggish |
  > a pulse that takes its time; long waits from beat to beat; the pace of an evening stroll
  = A leisurely pulse, with long waits between beats, at the pace of a stroll.
mid-tempo | moderate, medium-paced, walking-pace | andante |
  > a steady walking pace; a beat neither rushed nor dragging; a comfortable middle speed
  = A steady and comfortable speed in the middle, neither rushed nor dragging, like walking.
fast | quick, rapid, up-tempo | speedy |
  > a racing pulse; feet that can hardly keep up; beats flying past
  = Beats racing and flying past at a speed that feet can hardly follow.
sparse | bare, minimal, uncluttered | skeletal |
  > wide gaps of silence; only a handful of notes; space left empty
  = A handful of notes with silence and empty space in the gaps.
busy | crowded, dense, packed | cluttered |
  > notes on top of notes; something happening all the time; many players at once
  = Many players and notes at once, crowded so that something happens all the time.
dry | close-miked, intimate, up-close | anechoic |
  > no room around the sound; notes that stop dead; a microphone an inch away
  = A microphone up close, an inch away, so that notes stop dead and no room is heard.
reverberant | echoing, cavernous, reverb-soaked | echoey |
  > a big hall around the sound; endless reverb tails; echoes off stone walls
  = Echoes and endless tails of reverb, as off the stone walls of a big hall.
lo-fi | crackly, tape-worn, hissy | scratchy |
  > tape hiss and crackle; a worn-out cassette; the muffled sound of an old radio
  = Hiss and crackle like a worn tape, a cassette or an old and muffled radio.
"""

# Activities that go with music: the rule on a piece's attributes | wordings for titles
#   > wordings for descriptions
_ACTIVITIES = """
mood=calm, tempo=slow/mid-tempo | late night study; deep focus; homework time
  > revising for exams; reading in the library
mood=calm/dreamy, tempo=slow | falling asleep; bedtime; lights out
  > going to bed; putting the baby to sleep
mood=energetic, tempo=mid-tempo/fast | the gym; a hard workout; a morning run
  > lifting weights; running another mile
mood=sad, tempo=slow/mid-tempo | rainy windows; grey november; an umbrella walk
  > watching the rain; grey afternoons indoors
mood=sad, density=sparse | a break-up; missing someone; unanswered letters
  > getting over somebody; crying into a pillow
mood=happy/energetic, genre=rock/blues/funk/reggae | a road trip; the open highway; summer miles
  > driving all day; tapping on the steering wheel
mood=happy/energetic, genre=techno/house/drum and bass/funk | a saturday party; going out; a night on the town
  > a birthday party; dancing with friends
mood=calm/happy/dreamy, genre=bossa nova/swing | dinner for two; candles and wine; supper at eight
  > cooking supper; a table with friends
mood=calm/dreamy, density=sparse | meditation; a yoga class; deep breaths
  > sitting cross-legged; stretching on a mat
mood=tense, tempo=mid-tempo/fast | a spy film; a heist; a detective story
  > chasing suspects; stealing the diamonds
mood=tense, tempo=slow/mid-tempo, density=sparse | a ghost story; horror night; an abandoned hospital
  > hiding under the bed; a scary film
mood=happy, tempo=slow/mid-tempo | sunday breakfast; pancakes and coffee; a good morning
  > making breakfast; coffee on the balcony
mood=happy, tempo=fast | cleaning the kitchen; washing up; tidying day
  > sweeping the floors; doing the dishes
mood=dreamy | stargazing; the planetarium; a telescope
  > counting stars; looking at the night sky
mood=energetic/tense, genre=techno/drum and bass/hip hop/ambient | coding; video games; a hackathon
  > writing software; beating the last level
mood=happy/calm, genre=folk/bossa nova/reggae | a picnic; garden lunch; lemonade in june
  > eating on the grass; an afternoon in the park
mood=energetic/happy, genre=march/rock | match day; the home team; the cup final
  > cheering for the team; winning the cup
production=lo-fi, mood=calm/sad/dreamy | old photographs; a vintage shop; memories of school
  > going through the attic; remembering childhood
"""

# {x} is replaced by one wording, {x_f} by one facet, {style} by the genre's label. A template is used only when the piece has
# a phrase for each of its slots.
_TITLES = ("{thing} in {place}", "{style} for {name}", "{mood} {thing}", "{lead} {thing} no. {number}",
           "{tempo} {style} in {key}", "{genre} nights in {place}", "{mood} {style} for {name}")
_TAGS = ("{genre}", "{style}", "{lead}", "{lead}", "{mood}", "{tempo}", "{density}", "{production}",
         "{tempo} {style}", "{mood} {style}", "{genre} {lead}", "{mood} {lead}", "{lead} tune",
         "{production} {style}", "{density} {lead}", "{genre} tune with {backing}", "{mood} music",
         "{tempo} music", "{tempo} {mood} {lead}", "{lead} and {backing}")
_SENTENCES = (
    "a {tempo}, {mood} {genre} piece led by {lead}.",
    "this is {genre} music with {genre_f}, and the tune belongs to the {lead}.",
    "I love the {lead} here: {lead_f}, and {mood_f} all the way through.",
    "{mood} and {tempo}, with {tempo_f}; the sound of the {lead} is {production}.",
    "the recording is {production}, with {production_f}, and the texture is {density}.",
    "so {mood}! {mood_f}, {genre_f}.",
    "{lead_f}: that is the {lead}, in a {density} arrangement with {density_f}.",
    "you can hear {genre_f}, {lead_f} and {mood_f}.",
    "the arrangement is {density}, the playing {tempo}: {tempo_f}.",
    "someone recorded a {mood} {genre} number with {lead}, very {production}, with {production_f}.",
    "the {lead} is out in front with {backing} behind, {density} and {tempo}.",
    "{genre_f} and {tempo_f}, which makes it a {tempo} {genre} tune.",
    "if you like {genre} music with {lead}, try this {mood} one.",
    "what stays with me is {mood_f}; a {mood}, {production} take with {lead_f}.",
    "{density_f}, {production_f}, and over it the {lead}.",
    "a {production} {genre} track: {genre_f}, {density_f}.",
    "there is {backing} behind the {lead}, and all of it feels {mood}.",
    "{tempo} {genre} music for {activity}, full of {mood_f}.")
_OFF_TOPIC = (
    "first comment from {place}!", "who else is watching in {year}?", "my friend {name} sent me this link.",
    "please subscribe to my channel, I only need {number} more.", "greetings to everybody in {place}.",
    "the advert before this video was {number} minutes long.", "{number} people clicked the wrong button.",
    "where can I buy the jacket she wears at 1:{number}?", "can somebody explain the ending to me?",
    "I met {name} at the airport in {place} once, very kind person.", "the subtitles are wrong again.",
    "does anyone know what camera this was filmed with?", "I came here because {name} told me to.",
    "my cat knocked over the laptop and now we are here.", "I should be doing my taxes.",
    "is {name} still alive?", "many greetings, {name}!!", "I paused this to order pizza in {place}.",
    "that haircut deserves its own documentary.", "tickets for {place} were sold out in {number} minutes.",
    "uploaded in {year} and still only {number} views.", "the comments are better than the film.",
    "the parking there costs a fortune.")
_PLAYLIST_TEXTS = (
    "{activity}", "{activity}, {activity_f}", "{activity} with {lead}", "{activity}: {mood} {genre} tunes",
    "{mood} {lead} for {activity}", "{genre} music for {activity}, {mood_f}",
    "for {activity}: {mood_f} and {lead_f}", "{mood} {lead} favourites", "{tempo} {lead} {style}",
    "{mood} {lead} music: {lead_f}, {mood_f}", "nothing but {style}: {genre_f}",
    "{genre} night, {genre_f}, {mood_f}", "the {mood} {genre} collection",
    "{tempo} {style} with {lead}, {tempo_f}", "{lead_f} and {mood_f}", "{genre_f} and {lead_f}",
    "{production} {style} and {density} {lead}",
    "{density}, {production} and {mood}: {density_f}, {production_f}")
_CLASS_LABELS = {"genre": "{} music", "lead": "{}", "backing": "{}", "mood": "{} music", "tempo": "{} music",
                 "density": "{} texture", "production": "{} recording"}
_FILLERS = {
    "thing": "lantern, harbour, letter, window, orchard, staircase, comet, ferry, mirror, kite, telegram",
    "place": "Lisbon, Trieste, Bergen, Odessa, Tampere, Valparaiso, Leeds, Cork, Nantes, Porto, Gdansk, Oslo",
    "name": "Marta, Elias, Ingrid, Tomas, Noor, Felix, Agnes, Pavel, Lucia, Hugo, Wanda, Ravi, Sofia",
    "year": "2009, 2011, 2014, 2016, 2018, 2019, 2020, 2021, 2022",
    "number": "12, 14, 17, 23, 26, 31, 38, 42, 45, 53"}
_KEYS = "C, D flat, D, E flat, E, F, G flat, G, A flat, A, B flat, B".split(", ")

OFF_TOPIC_SHARE = 0.2                               # of the long-form comments
MISSING = {"lf": 0.10, "pl": 0.20, "aset": 0.15}    # share of recordings without the source
MIN_MEMBERS = 3                                     # smallest playlist
NEGATIVES = 10                                      # triplets for each label and for each playlist


def _split(text, separator):
    return tuple(part.strip() for part in text.split(separator) if part.strip())


# Rows of (label, other wordings, synonym, artists, facets, description).
_ROWS = re.findall(r"(.+?) \| (.+?) \| (.*?) ?\|(.*)\n  > (.+)\n  = (.+)\n", _LABELS)
WORDINGS = {label: (label, *_split(others, ",")) for label, others, _, _, _, _ in _ROWS}
SYNONYMS = {label: synonym for label, _, synonym, _, _, _ in _ROWS if synonym}
ARTISTS = {label: _split(artists, ",") for label, _, _, artists, _, _ in _ROWS}
FACETS = {label: _split(facets, ";") for label, _, _, _, facets, _ in _ROWS}
DESCRIPTIONS = {label: description for label, _, _, _, _, description in _ROWS}
# Rows of (rule {attribute: allowed values}, wordings for titles, wordings for descriptions).
ACTIVITIES = [({attribute: values.split("/") for attribute, values in re.findall(r"(\w+)=([^,]+)", rule)},
               _split(titles, ";"), _split(details, ";"))
              for rule, titles, details in re.findall(r"(.+) \| (.+)\n  > (.+)\n", _ACTIVITIES)]


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
    title = _capitalise(_compose(_TITLES, slots, rng))
    first = [title, artist] if rng.random() < 0.5 else [f"{artist} - {title}"]
    tag_list = lambda: ", ".join(wording for _, wording in _attributes(slots, rng))
    class_labels = lambda: ", ".join(_capitalise(_CLASS_LABELS[slot].format(wording)) for slot, wording in _attributes(slots, rng))
    sources = {"sf": _distinct(lambda: tag_list() if rng.random() < 0.8 else _compose(_TAGS, slots, rng),
                               int(rng.integers(8, 13)), first)}
    truth, comments = {}, rng.integers(5, 9)
    while len(truth) < comments:
        about_music = bool(rng.random() >= OFF_TOPIC_SHARE)
        comment = _compose(_SENTENCES if about_music else _OFF_TOPIC, slots, rng, int(rng.integers(2, 6)))
        truth[_capitalise(comment)] = about_music
    sources["lf"] = list(truth)
    sources["pl"] = _distinct(lambda: _compose(_PLAYLIST_TEXTS, slots, rng), int(rng.integers(3, 6)))
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
    for rule, titles, details in ACTIVITIES:
        first, second = rng.permutation(titles)[:2]
        add(lambda piece: _matches(piece, rule), f"{first} and {second}", f"music for {details[0]} and for {details[1]}")
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


def _matches(piece, rule):
    """Returns whether a piece satisfies an activity's rule {attribute: allowed values}."""
    return all(getattr(piece, attribute) in allowed for attribute, allowed in rule.items())


def _slots(piece):
    """Returns {slot: phrases that are true of the piece}. Three in four wordings of a label are the label itself."""
    slots = {name: _split(options, ",") for name, options in _FILLERS.items()}
    for slot in ("genre", "lead", "mood", "tempo", "density", "production"):
        label = getattr(piece, slot)
        slots[slot] = [label] * (3 * len(WORDINGS[label]) - 4) + list(WORDINGS[label])
        slots[slot + "_f"] = FACETS[label]
    slots["style"] = [piece.genre]
    slots["backing"] = [word for label in piece.backing for word in (label, *WORDINGS[label])]
    slots["key"] = [f"{_KEYS[piece.key]} {piece.mode}"]
    slots["activity"] = slots["activity_f"] = [phrase for rule, titles, details in ACTIVITIES if _matches(piece, rule)
                                               for phrase in titles + details]
    return slots


def _pick(options, rng):
    return options[int(rng.integers(len(options)))]


def _distinct(write, count, first=()):
    """Returns `count` different texts: those in `first`, then results of write()."""
    written = dict.fromkeys(first)
    while len(written) < count:
        written[write()] = None
    return list(written)


def _compose(templates, slots, rng, count=1):
    """Fills the slots of `count` different templates. A phrase is used twice only when the piece has no other for the slot."""
    usable = [template for template in templates if all(slots[name] for name in re.findall(r"{(\w+)}", template))]
    text = " ".join(str(template) for template in rng.choice(usable, count, replace=False))
    used = set()

    def fill(slot):
        phrase = _pick([phrase for phrase in slots[slot[1]] if phrase not in used] or slots[slot[1]], rng)
        used.add(phrase)
        return phrase

    text = re.sub(r"{(\w+)}", fill, text)
    return re.sub(r"\b([Aa]) (?=[aeiou](?!ne-))", r"\1n ", text)   # an organ, but a one-two-three sway


def _attributes(slots, rng):
    """Returns [(slot, wording)] for one, four, six or all seven of the attributes that the piece has, in random order."""
    present = [slot for slot in _CLASS_LABELS if slots[slot]]
    return [(slot, _pick(slots[slot], rng)) for slot in rng.permutation(present)[:_pick((1, 4, 6, 7), rng)]]


def _capitalise(text):
    return re.sub(r"(^|[.!?] )([a-z])", lambda match: match[1] + match[2].upper(), text)
