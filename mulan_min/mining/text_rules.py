"""Rules that clean mined text: one for titles and tags (short form, SF), one for comments (long form, LF).

That SF is cleaned by rules is the paper's; which rules is our choice. A rule is a function text -> text, or a list of texts
(it splits), or None (it drops). To add one, write the function and give it a line in RULES_SF or RULES_LF, where it stands
with its reason; given its own output again and again, a rule must come to rest. No rule takes letters for ASCII: what is a
letter, a symbol or an invisible sign is asked of `unicodedata`, so that accents, Cyrillic, Devanagari and CJK come through.
"""
import re
import unicodedata
from collections import Counter
from functools import lru_cache

# Written without spaces between words, so a word is taken to be two signs: our choice.
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
MUSICAL_SIGNS = "♭♮°№"      # symbols by category, but part of a key or an opus
ADDRESS = re.compile(r"https?:\S+|\bwww\.\S+|\b[\w.+-]{1,64}@\w[\w.-]{0,64}\.\w+|\b[\w.-]{1,64}\.(?:com|net|org)\b\S*"
                     r"|\b[\w-]{1,64}\.(?:ly|be|gl|me|tv|co|io|fm|link|de|fr|ru|jp|uk)/\S*", re.I)
BRACKETS = re.compile(r"[(\[{【〔《「『]([^()\[\]{}【】〔〕《》「」『』]*)[)\]}】〕》」』]")
YEAR = re.compile(r"(?:(?:19|20)\d\d)(?:\s?[-–/]\s?(?:(?:19|20)?\d\d))?")
STAMP = re.compile(r"(?:(?<!\w)(?:at|from|around|um|ab|à|en|a los|в|на)\s+|@\s*)?(?<![\w:])\d{1,2}:\d\d(?::\d\d)?(?![\w:])", re.I)
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
# nothing but such words in brackets goes with its brackets; outside of them they may belong to a title
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
LYRICS = re.compile(r"\b(?:lyrics|letra|paroles|songtext|testo|текст|слова)\b|歌詞|歌词|가사", re.I)
ASKING = re.compile(r"""
    [?？؟] | \b (?: please | pls | plz | por \s favor | svp | bitte | per \s favore | пожалуйста ) \b
  | ください | お願い | 教えて | 求 | 请 | 주세요 | \b (?: any | some ) (?: one | body ) \s (?: have | has | got | know | post | tell )
  | \b (?: need | post | want ) \s (?: the | these | lyrics )
""", re.I | re.X)
TITLE_REQUEST = re.compile(r"""
    \b (?: name | title ) \s of \s (?: the | this | that ) \s (?: song | track | tune | piece | music ) \b .* \?
  | \b (?: what | which ) (?: '?s | \s is )? \s (?: (?: the | this | that ) \s )? (?: song | track | tune ) \s
    (?: is | at | name | called ) \b .* \?
  | ^ \W* (?: song | track ) \s? (?: name | id | title | at \s .* )? \W* \? | nombre \s de \s la \s canci[oó]n | 曲名
""", re.I | re.X)

# A dot after these ends no sentence; after MAYBE only before a capital; after NUMBERED only when no number follows.
NEVER = set("feat ft vs mr mrs ms dr prof st sra srta sgt prod arr orch approx ca cf e.g i.e z.b bzw d.h т.е см им др sr".split())
MAYBE = set("etc jr inc ltd bros co min sec max a.m p.m usw и т.д т.п".split())
NUMBERED = set("no nr op vol pt bd num bwv kv hob woo opus part track".split())
ENDS = re.compile(r"[.!?…。！？｡؟۔।॥։።]+[\"'”’»)\]」』）]*")


# ---- what a text is made of ------------------------------------------------------------


@lru_cache(maxsize=None)
def is_unspaced(sign):
    """Whether a sign belongs to a script without spaces between words."""
    return unicodedata.category(sign)[0] == "L" and unicodedata.name(sign, "").startswith(UNSPACED)


def has_letter(text):
    return any(sign.isalpha() for sign in text)


def count_words(text):
    """How many words a text has: runs between spaces with a letter or digit; in scripts without spaces, two signs a word."""
    unspaced = 0 if text.isascii() else sum(map(is_unspaced, text))
    return (unspaced + 1) // 2 + sum(any(s.isalnum() and not is_unspaced(s) for s in chunk) for chunk in text.split())


# ---- rules for both --------------------------------------------------------------------


def plain_characters(text):
    """Compatibility forms as ordinary letters, no control or invisible signs, one space at a time; lines stay."""
    if not text.isascii():
        # ´ is spelled as a space and an accent in NFKC: symbols are left to the rule below
        text = "".join(unicodedata.normalize("NFKC", s) if unicodedata.category(s)[0] in "LNPZ" else s for s in text)
        text = unicodedata.normalize("NFC", re.sub("[´‘’]", "'", text))
    kept = []
    for sign in text:
        kind = "L" if sign.isalpha() else unicodedata.category(sign)
        joins = sign in "\u200c\u200d" and kept and unicodedata.category(kept[-1])[0] in "LM"      # as Persian and Hindi write
        if kind == "Cc" or kind[0] == "Z":
            kept.append("\n" if sign in "\n\r\u2028\u2029\x85" else " ")
        elif kind[0] != "C" or joins:
            kept.append(sign)
    return "\n".join(filter(None, (" ".join(line.split()) for line in "".join(kept).split("\n"))))


def no_symbols(text):
    """Emoji, ornaments and dingbats become spaces; musical signs stay."""
    if text.isascii():
        return text
    return "".join(" " if _is_symbol(sign) else sign for sign in text)


def _is_symbol(sign):
    # skin tones are modifiers (Sk), variation selectors and key caps are marks
    return (unicodedata.category(sign) in ("So", "Sk", "Me") and sign not in MUSICAL_SIGNS and not sign.isascii()
            or "\ufe00" <= sign <= "\ufe0f")


def hashtags(text):
    """"A waltz #sad #LoFi" -> ["A waltz", "sad", "LoFi"]. A sign inside a word (C#) or before a number (#1) is none."""
    tags = re.findall(r"(?<!\S)#[^\W\d]\S*", text)
    if not tags:
        return text
    words = [word.strip(EDGES + ".!?)(").replace("_", " ") for tag in tags for word in tag.split("#")[1:]]
    return [re.sub(r"(?<!\S)#[^\W\d]\S*", " ", text), *words]


# ---- short form ------------------------------------------------------------------------


def no_addresses(text):
    return ADDRESS.sub(" ", text)


def split_tags(text):
    """A list of tags as texts of their own; a title with a comma, or "Crosby, Stills, Nash & Young", stays whole."""
    lines = text.split("\n")
    for mark, least, longest in ((r"[|｜;；•]", 2, 4), (r"[,，、،](?!\d)", 3, 3)):
        parts = [part for part in re.split(mark, text) if part.strip()]
        short = sum(count_words(part) <= longest for part in parts)
        if len(lines) == 1 and len(parts) >= least and 2 * short > len(parts):
            if "," not in mark or not re.search(r"&|\s(?:and|und|et|y|e|i|и|og|och|en)\s", parts[-1]):
                return parts
    return lines if len(lines) > 1 else text


def no_boilerplate(text):
    """Without "official video", "HD", "free download" and their like; brackets that hold nothing else go too."""
    def bracket(found):
        words = {word.strip(EDGES + ".!?") for word in found[1].casefold().split()} - {""}
        return " " if words <= IN_BRACKETS else found[0]

    return BRACKETS.sub(bracket, BOILERPLATE.sub(" ", text))


def no_years(text):
    """Without years in brackets: "(1975)", "[2009-11]". A bare year may be the title."""
    return BRACKETS.sub(lambda found: " " if YEAR.fullmatch(found[1].strip()) else found[0], text)


def tidy(text):
    """Without what the rules above left at the edges: separators, spaces, brackets that were never closed."""
    text = " ".join(text.split()).strip(EDGES)
    text = re.sub(r"\s+([)\]】,;])", r"\1", re.sub(r"([(\[【])\s+", r"\1", text))
    for opening, closing in ("()", "[]", "【】"):
        if Counter(text)[opening] + Counter(text)[closing] == 1:
            text = text.replace(opening, " ").replace(closing, " ")
    return " ".join(text.split())


def stop_tag(text):
    return None if text.casefold().strip(".!? ") in STOP_TAGS else text


def no_letters(text):
    return text if has_letter(text) else None


# ---- long form -------------------------------------------------------------------------


def sentences(text):
    """A comment (str) -> its sentences, each with its marks; a new line always begins one."""
    found = []
    for line in re.split(r"[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]+", text):
        start = 0
        for end in ENDS.finditer(line):
            if _ends_sentence(line[start:end.start()], end.group(), line[end.end():end.end() + 20]):
                found.append(line[start:end.end()].strip())
                start = end.end()
        found.append(line[start:].strip())
    return list(filter(None, found))


def _ends_sentence(before, mark, after):
    """Whether the marks between `before`, what the sentence has so far, and `after` end it."""
    following = after.lstrip()
    if not following or mark[0] in "。！？｡":
        return True
    if not after[0].isspace():      # 4.5, example.com; but a sign of a script without spaces may follow at once
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
    return not (word.isdecimal() and before.strip() == word)    # the 1. of a numbered line


def address(text):
    return None if ADDRESS.search(text) else text


def credits(text):
    return None if CREDITS.search(text) else text


def request(text):
    return None if TITLE_REQUEST.search(text) or LYRICS.search(text) and ASKING.search(text) else text


def spam(text):
    return None if SPAM.search(text) else text


def emoji_flood(text):
    """None for four symbols or more that are no fewer than the words."""
    symbols = 0 if text.isascii() else sum(unicodedata.category(sign) == "So" for sign in text)
    return None if symbols >= 4 and symbols >= count_words(no_symbols(text)) else text


def shouting(text):
    """None where 20 letters or more have a case and four in five are capitals; scripts without case never shout."""
    cased = [sign for sign in text if sign.isupper() or sign.islower()]
    return None if len(cased) >= 20 and sum(map(str.isupper, cased)) > 0.8 * len(cased) else text


def repetition(text):
    """None for a letter or mark six times in a row (dots and digits aside), or a word four times."""
    return None if re.search(r"([^\s\d.…_=-])\1{5}|(?<!\w)(\w+)(?:\W+\2(?!\w)){3}", text, re.I) else text


def time_stamps(text):
    """"The solo at 2:31 is wild" -> "The solo is wild"; a line that is a chapter mark, a stamp and few words, goes."""
    rest = " ".join(STAMP.sub(" ", text).split())
    if rest == " ".join(text.split()):
        return text
    return None if re.match(r"\W*\d{1,2}:\d\d", text) and count_words(rest) < 5 else rest


def too_short(text):
    return text if count_words(text) >= 3 else None


# ---- the tables ------------------------------------------------------------------------

# (name in reports, rule, reason), in the order of work
RULES_SF = (
    ("characters", plain_characters, "the same word in full-width, bold or invisible signs would be another word"),
    ("addresses", no_addresses, "a link is not a word"),
    ("symbols", no_symbols, "emoji and ornaments are not heard"),
    ("hashtags", hashtags, "a hashtag is a tag of its own"),
    ("split", split_tags, "each tag of a list says something alone"),
    ("boilerplate", no_boilerplate, "it tells what the upload is, not how the music sounds"),
    ("years", no_years, "a year in brackets is the release's"),
    ("tidy", tidy, "separators are left over when something was cut"),
    ("stop-tags", stop_tag, "such a tag fits any recording"),
    ("no letters", no_letters, "digits and marks alone say nothing"),
)
RULES_LF = (
    ("sentences", sentences, "a comment mixes sentences about the music with others; each is judged alone"),
    ("characters", plain_characters, "the same word in full-width, bold or invisible signs would be another word"),
    ("addresses", address, "a sentence with a link sends the reader elsewhere"),
    ("credits", credits, "licences and credits are the same under any music"),
    ("requests", request, "who asks for lyrics or a title does not describe"),
    ("spam", spam, "advertising and roll-calls are the same under any music"),
    ("emoji flood", emoji_flood, "more symbols than words: a cheer, no description"),
    ("shouting", shouting, "capitals throughout are cheers or advertising"),
    ("repetition", repetition, "a letter held down or a word repeated is a cheer or a sung line"),
    ("time stamps", time_stamps, "a stamp means nothing without the player; a line of them is a table of contents"),
    ("symbols", no_symbols, "emoji and ornaments are not heard"),
    ("hashtags", hashtags, "a hashtag is no part of the sentence"),
    ("tidy", tidy, "separators are left over when something was cut"),
    ("too short", too_short, "fewer than three words are no description"),
)


def clean(text, rules, changed=None):
    """One text through a table of rules -> (texts kept, [(rule, text dropped)]).

    After a change the result starts again at the first rule, for cutting may uncover what an earlier rule looks for; so
    cleaning what was kept changes nothing. Spaces that a rule leaves are tidied here. `changed`, a Counter, counts the texts
    changed or split by each rule.
    """
    kept, dropped, waiting = [], [], [text]
    while waiting:
        piece = waiting.pop()
        for name, rule, _ in rules:
            found = rule(piece)
            found = [] if found is None else [found] if isinstance(found, str) else found
            found = [re.sub(" +", " ", part).strip(" ") for part in found if part.strip()]
            if found == [piece]:
                continue
            if not found:
                dropped.append((name, piece))
            elif changed is not None:
                changed[name] += 1
            waiting += reversed(found)
            break
        else:
            kept.append(piece)
    return kept, dropped
