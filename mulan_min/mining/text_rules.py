"""Rules that clean mined text: RULES_SF for titles and tags (short form, SF), RULES_LF for comments (long form, LF).

Cleaning SF by rules comes from the paper. The rules themselves are our choice. A rule is a function that takes a text and
returns a text (changed or not), a list of texts (it splits the text) or None (it drops the text). To add a rule, write the
function and add a line with its reason to RULES_SF or RULES_LF. A rule must have a fixed point: when it is applied to its
own output again and again, it soon changes nothing more. No rule assumes ASCII. `unicodedata` decides what is a letter, a
symbol or an invisible character, so accents, Cyrillic, Devanagari and CJK survive.
"""
import re
import unicodedata
from functools import partial

from mulan_min.mining.segmentation import count_words, sentences

MUSICAL_SIGNS = "♭♮°№"      # Unicode calls them symbols, but they belong to the name of a key or an opus
ADDRESS = re.compile(r"<?(?:https?:\S+|\bwww\.\S+|\b[\w.+-]{1,64}@\w[\w.-]{0,64}\.\w+|\b[\w.-]{1,64}\.(?:com|net|org)\b\S*"
                     r"|\b[\w-]{1,64}\.(?:ly|be|gl|me|tv|co|io|fm|link|de|fr|ru|jp|uk)/\S*)>?", re.I)
BRACKETS = re.compile(r"[(\[{【〔《「『]([^()\[\]{}【】〔〕《》「」『』]*)[)\]}】〕》」』]")
YEAR = re.compile(r"(?:(?:19|20)\d\d)(?:\s?[-–/]\s?(?:(?:19|20)?\d\d))?")
STAMP = re.compile(r"(?:(?<!\w)(?:at|from|around|um|ab|à|en|a los|в|на)\s+|@\s*)?(?<![\w:])\d{1,2}:\d\d(?::\d\d)?(?![\w:])", re.I)
HASHTAG = re.compile(r"(?<!\S)#[^\W\d]\S*")
EDGES = " \t\n-–—|｜/\\:,;、，·•~～_*=<>"

BOILERPLATE = re.compile(r"""
    \b official (?:\s\w+){0,2}? \s (?: videos? | video\s?clip | audio | visuali[sz]er | clip | m/?v | trailer | release) \b
  | \b (?: music | lyrics? | promo ) \s? video (?:clip)? \b | \b (?: with | w/ | \+ ) \s? lyrics \b | \b lyrics \s on \s screen \b
  | \b (?: u?hd | hq | [48]k | \d{3,4}p | 320 \s? kbps | high \s quality ) (?: \s (?: video | audio | quality ))? \b
  | \b free \s (?: download | dl ) \b | \b (?: buy | stream ) \s now \b | \b out \s now \b | \b full \s video \b
  | \b (?: \d{4} \s )? (?: digital(?:ly)? \s )? remaster(?:ed)? (?: \s version )? (?: \s (?:in \s)? \d{4} )? \b
  | \b (?: clip | audio ) \s officiel \b | \b vidéo \s (?: officielle | clip ) \b
  | \b (?: v[ií]deo (?:clipe?)? | [aá]udio | letra ) \s oficial \b | \b co[nm] \s letra \b | \b v[ií]deo \s ufficiale \b
  | \b offizielles \s (?: musik )? video \b | \b официальн(?:ый|ое) \s (?: клип | видео | аудио ) \b
  | \b премьера \s (?: клипа | песни ) \b
  | (?: 公式 | 官方 ) (?: ミュージックビデオ | ビデオ | 動画 | 音源 | 高清 | 完整版 | \s? M/?V )+ | ミュージックビデオ
  | 高清 | 高画質 | 高音質 | 歌詞付き | 動態歌詞 | 动态歌词 | 뮤직비디오 | 고화질 | (?-i: \b M/?V \b )
""", re.I | re.X)
# Brackets that hold only these words are removed. Outside of brackets such a word may belong to a title.
IN_BRACKETS = set("official audio video videoclip clip lyrics lyric explicit clean the hd hq new version premiere oficial "
                  "officiel ufficiale offiziell letra paroles testo клип официальный 公式 官方 공식 歌詞 歌词 가사".split())
STOP_TAGS = set("""
    music; musics; song; songs; sound; sounds; track; tracks; audio; video; videos; clip; youtube; spotify; soundcloud; tiktok
    shorts; short; reels; viral; trending; fyp; foryou; foryoupage; for you; new; new music; new song; best; top; official; like
    share; follow; subscribe; lyrics; cover; unknown; unknown artist; various artists; untitled; misc; other; favourites
    favorites; seen live; musik; lied; musique; chanson; música; musica; canción; cancion; canzone; vídeo; letra; музыка; песня
    клип; видео; 音乐; 音樂; 音楽; 歌; 歌曲; 動画; 视频; 음악; 노래; संगीत; गाना; موسيقى; اغنية
""".strip().replace("\n    ", "; ").split("; "))

SPAM = re.compile(r"""
    \b (?: subscrib | suscr[ií]b | inscreva | abonne[zr] | abonnier | подпис[ыа] ) | チャンネル登録 | 구독 | 订阅 | 訂閱
  | \b (?: my | our | this ) \s (?: youtube \s )? channel \b | \b follow \s (?: me | us | @ ) | \b link \s (?: in | is | below )
  | (?: ^ \W* (?: drop \s a \s )? like | \b thumbs \s up ) \s if \b | \b hit \s (?: the | that ) \s (?: like | bell )
  | \b like \s this \s comment \b | \b any(?:one|body) \s in \s 20\d\d
  | ^ \W* (?: first | second | early ) (?: \s comment .* )? \W* $
  | \b who(?:'s|s| \s is)? \s (?: else \s )? (?: is \s )? (?: still \s )? (?: here | watching | listening )
  | \b give-?away \b | \b promo \s code \b | \b discount \b | \b whatsapp \b | \b pre-? (?: order | save ) \b
  | \b available \s (?: now \s )? (?: on | at ) \b | \b out \s now \b | \b free \s download \b
  | \b download \s (?: it | now | here ) \b | \b click \s (?: here | (?: on \s )? the \s link ) \b | \b merch \b
""", re.I | re.X)
CREDITS = re.compile(r"""
    provided \s to \s youtube | auto-generated \s by | [℗©] \s? \d{4} | \(c\) \s? \d{4} | \b released \s on:
  | \b all \s rights \s reserved | \b copyright | \b fair \s use \b | creative \s commons
  | \b (?: under | exclusive ) \s licen[sc]e
  | \b courtesy \s of \b | ^ \s* (?: composer | producer | lyricist | label | artwork | director | publisher | mixed | mastered
                                | filmed | edited ) (?: \s by )? \s* [:：]
""", re.I | re.X)
# What encoders, rippers and shops write into the comment of a music file, and any mention of a licence.
FILE_COMMENT = re.compile(CREDITS.pattern + r"""
  | enc\b | encode | lib (?: vorbis | opus | flac | sndfile ) | xiph | \b lame \b | lav[fc]\d | itunes | audio \s copy | ripped
  | jamendo | bandcamp | soundcloud | ^ visit \s | licen[sc]e | all \s rights | \b cc [- ]? (?: by | 0 ) | \(c\)
  | [0-9a-f]{8} \s [0-9a-f]{8}
""", re.I | re.X)
LYRICS = re.compile(r"\b(?:lyrics|letra|paroles|songtext|testo|текст|слова)\b|歌詞|歌词|가사", re.I)
ASKING = re.compile(r"""
    [?？؟] | \b (?: please | pls | plz | por \s favor | svp | bitte | per \s favore | пожалуйста ) \b
  | ください | お願い | 教えて | 求 | 请 | 주세요 | \b (?: any | some ) (?: one | body ) \s (?: have | has | got | know | post | tell )
  | \b (?: need | post | want ) \s (?: the | these | lyrics )
""", re.I | re.X)
# One letter or mark six times in a row (except dots and digits), or one word four times in a row.
REPETITION = re.compile(r"([^\s\d.…_=-])\1{5}|(?<!\w)(\w+)(?:\W+\2(?!\w)){3}", re.I)
TITLE_REQUEST = re.compile(r"""
    \b (?: name | title ) \s of \s (?: the | this | that ) \s (?: song | track | tune | piece | music ) \b .* \?
  | \b (?: what | which ) (?: '?s | \s is )? \s (?: (?: the | this | that ) \s )? (?: song | track | tune ) \s
    (?: is | at | name | called ) \b .* \?
  | ^ \W* (?: song | track ) \s? (?: name | id | title | at \s .* )? \W* \? | nombre \s de \s la \s canci[oó]n | 曲名
""", re.I | re.X)


def drop_if(condition):
    """Makes the rule that drops the texts for which condition(text) is true."""
    return lambda text: None if condition(text) else text


# ---- rules for short and long form -----------------------------------------------------


def plain_characters(text):
    """Writes compatibility forms as ordinary letters, removes control and invisible characters, and leaves one space at a
    time. Line ends stay."""
    if not text.isascii():
        # NFKC would spell ´ as a space and an accent, so symbols are left to `no_symbols`
        text = "".join(unicodedata.normalize("NFKC", c) if unicodedata.category(c)[0] in "LNPZ" else c for c in text)
        text = unicodedata.normalize("NFC", re.sub("[´‘’]", "'", text))
    kept = []
    for char in text:
        kind = "L" if char.isalpha() else unicodedata.category(char)
        joins = char in "\u200c\u200d" and kept and unicodedata.category(kept[-1])[0] in "LM"      # part of Persian and Hindi words
        if kind == "Cc" or kind[0] == "Z":
            kept.append("\n" if char in "\n\r\u2028\u2029\x85" else " ")
        elif kind[0] != "C" or joins:
            kept.append(char)
    return "\n".join(filter(None, (" ".join(line.split()) for line in "".join(kept).split("\n"))))


def no_symbols(text):
    """Replaces emoji, ornaments and dingbats by spaces. Musical signs stay."""
    def is_symbol(char):      # skin tones are modifiers (Sk); variation selectors and key caps are marks (Mn, Me)
        symbol = unicodedata.category(char) in ("So", "Sk", "Me") and char not in MUSICAL_SIGNS and not char.isascii()
        return symbol or "\ufe00" <= char <= "\ufe0f"

    return text if text.isascii() else "".join(" " if is_symbol(char) else char for char in text)


def hashtags(text):
    """"A waltz #sad #LoFi" -> ["A waltz", "sad", "LoFi"]. The # inside a word (C#) or before a number (#1) is no hashtag."""
    tags = HASHTAG.findall(text)
    words = [word.strip(EDGES + ".!?)(").replace("_", " ") for tag in tags for word in tag.split("#")[1:]]
    return [HASHTAG.sub(" ", text), *words] if tags else text


# ---- short form ------------------------------------------------------------------------


no_addresses = partial(ADDRESS.sub, " ")      # removes web and mail addresses
# Removes years in brackets: "(1975)", "[2009-11]". A year without brackets may be the title.
no_years = partial(BRACKETS.sub, lambda match: " " if YEAR.fullmatch(match[1].strip()) else match[0])
# Drops a tag that fits any recording, such as "music" or "YouTube".
stop_tag = drop_if(lambda text: text.casefold().strip(".!? ") in STOP_TAGS)
no_letters = drop_if(lambda text: not any(map(str.isalpha, text)))


def split_tags(text):
    """Splits a list of tags into its tags. A title with one comma stays whole, and so does "Crosby, Stills, Nash & Young"."""
    if "\n" in text:
        return text.split("\n")
    for mark, least, longest in ((r"[|｜;；•]", 2, 4), (r"[,，、،](?!\d)", 3, 3)):      # fewest parts, most words of a short part
        parts = [part for part in re.split(mark, text) if part.strip()]
        if len(parts) >= least and 2 * sum(count_words(part) <= longest for part in parts) > len(parts):
            if "," not in mark or not re.search(r"&|\s(?:and|und|et|y|e|i|и|og|och|en)\s", parts[-1]):
                return parts
    return text


def no_boilerplate(text):
    """Removes "official video", "HD", "free download" and similar words, and brackets that hold nothing else."""
    def bracket(match):
        words = {word.strip(EDGES + ".!?") for word in match[1].casefold().split()} - {""}
        return " " if words <= IN_BRACKETS else match[0]

    return BRACKETS.sub(bracket, BOILERPLATE.sub(" ", text))


def tidy(text):
    """Removes what the rules above left behind: separators and spaces at the ends, and a bracket without its partner."""
    text = " ".join(text.split()).strip(EDGES)
    text = re.sub(r"\s+([)\]】,;])", r"\1", re.sub(r"([(\[【])\s+", r"\1", text))
    for opening, closing in ("()", "[]", "【】"):
        if text.count(opening) + text.count(closing) == 1:
            text = text.replace(opening, " ").replace(closing, " ")
    return " ".join(text.split())


# ---- long form -------------------------------------------------------------------------


address, credits, spam, repetition = (drop_if(pattern.search) for pattern in (ADDRESS, CREDITS, SPAM, REPETITION))
# Drops a question for the title, and a request for the lyrics.
request = drop_if(lambda text: TITLE_REQUEST.search(text) or LYRICS.search(text) and ASKING.search(text))
too_short = drop_if(lambda text: count_words(text) < 3)


@drop_if
def emoji_flood(text):
    """Drops a text with four or more symbols when it has no more words than symbols."""
    symbols = 0 if text.isascii() else sum(unicodedata.category(char) == "So" for char in text)
    return symbols >= 4 and symbols >= count_words(no_symbols(text))


@drop_if
def shouting(text):
    """Drops a text in which 20 or more letters have a case and more than 80 % of them are capitals."""
    cased = [char for char in text if char.isupper() or char.islower()]
    return len(cased) >= 20 and sum(map(str.isupper, cased)) > 0.8 * len(cased)


def time_stamps(text):
    """"The solo at 2:31 is wild" -> "The solo is wild". Drops a chapter mark: a time stamp with fewer than five words."""
    rest = " ".join(STAMP.sub(" ", text).split())
    if rest == " ".join(text.split()):
        return text
    return None if re.match(r"\W*\d{1,2}:\d\d", text) and count_words(rest) < 5 else rest


# The tables of rules: (name in reports, rule, reason), in the order in which they are applied
RULES_SF = (
    ("characters", plain_characters, "the same word in full-width, bold or invisible signs would be another word"),
    ("addresses", no_addresses, "a link is not a word"),
    ("symbols", no_symbols, "emoji and ornaments have no sound"),
    ("hashtags", hashtags, "a hashtag is a tag of its own"),
    ("split", split_tags, "each tag of a list has a meaning of its own"),
    ("boilerplate", no_boilerplate, "it describes the upload, not the sound of the music"),
    ("years", no_years, "a year in brackets is the year of release"),
    ("tidy", tidy, "cuts leave separators behind"),
    ("stop-tags", stop_tag, "such a tag fits any recording"),
    ("no letters", no_letters, "digits and punctuation alone have no meaning"),
)
RULES_LF = (
    ("sentences", sentences, "a comment mixes sentences about the music with others, so each is judged alone"),
    ("characters", plain_characters, "the same word in full-width, bold or invisible signs would be another word"),
    ("addresses", address, "a sentence with a link is about another page"),
    ("credits", credits, "licences and credits are the same under any music"),
    ("requests", request, "a request for lyrics or a title does not describe the music"),
    ("spam", spam, "advertising and 'who is here?' are the same under any music"),
    ("emoji flood", emoji_flood, "more symbols than words: applause, not a description"),
    ("shouting", shouting, "a text in capitals is applause or advertising"),
    ("repetition", repetition, "repeated letters or words are applause or a line of the lyrics"),
    ("time stamps", time_stamps, "a time stamp is useless without the player"),
    ("symbols", no_symbols, "emoji and ornaments have no sound"),
    ("hashtags", hashtags, "a hashtag does not belong to the sentence"),
    ("tidy", tidy, "cuts leave separators behind"),
    ("too short", too_short, "fewer than three words do not describe music"),
)


def clean(text, rules, changed=None):
    """Applies a table of rules to one text -> (texts kept, [(name of the rule, text dropped)]).

    After each change the result goes back to the first rule, because a cut may uncover what an earlier rule looks for. So
    cleaning a kept text again changes nothing. Spaces that a rule leaves behind are removed here. `changed`, a Counter,
    counts for each rule the texts that it changed or split.
    """
    kept, dropped, waiting = [], [], [text]
    while waiting:
        piece = waiting.pop()
        for name, rule, _ in rules:
            result = rule(piece)
            parts = [result] if isinstance(result, str) else result or []
            parts = [re.sub(" +", " ", part).strip(" ") for part in parts if part.strip()]
            if parts == [piece]:
                continue
            if not parts:
                dropped.append((name, piece))
            elif changed is not None:
                changed[name] += 1
            waiting += reversed(parts)
            break
        else:
            kept.append(piece)
    return kept, dropped
