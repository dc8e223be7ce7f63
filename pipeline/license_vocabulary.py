"""The words by which one knows what a sentence beside a licence does: takes rights away, names a licence, or neither.

Flows in: words, each after a space, as `license_words` gives them. Flows out: whether some of them restrict, or name.
English as licence files have it; of other languages the words that forbid.
"""

from __future__ import annotations

import re


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_RESTRICTING = """
    not? non\\w* nor never neither none without unless only solely sole strictly exclusively except\\w* exclud\\w*
    must may might shall should will can cannot could would prohibit\\w* forbid\\w* forbad\\w* banned ban disallow\\w*
    restrict\\w* limit\\w* den(?:y|ied|ies) revok\\w* terminat\\w* withhold\\w* withdraw\\w* refrain\\w*
    commercial\\w* monet\\w* profit\\w* nonprofit\\w* business\\w* production enterprise internal\\w* personal\\w*
    private\\w* propriet\\w* confidential\\w* secret\\w* academic\\w* educational evaluat\\w* trial demo hobby\\w*
    student\\w* militar\\w* weapon\\w* nuclear war surveillance govern\\w* ethic\\w* moral\\w* harm\\w* evil good human
    rights? train\\w* learning ai ml llms? gpt artificial intelligence dataset\\w* min(?:e|ing) scrap\\w* crawl\\w*
    sell\\w* sale sold resell\\w* rent\\w* lease\\w* hosted hosting saas managed fees? pa(?:y|id|ys|ying|yment)
    subscri\\w* purchas\\w* royalt\\w* charge\\w* price\\w* seats? users? licensees? licensors?
    requir\\w* oblig\\w* condition\\w* agree\\w* accept\\w* consent\\w* notwithstanding
    addition\\w* amend\\w* modif\\w* replac\\w* supersed\\w* however instead but if when while
    permi\\w* grant\\w* allow\\w* authoriz\\w* entitle\\w* distribut\\w* redistribut\\w* publish\\w* copying copies
    use used uses using usage deriv\\w* purposes? attribut\\w* credit members? contact notify donat\\w*
    inform(?:s|ed|ing)? export\\w* compl(?:y|iant|iance) laws? liab\\w* indemnif\\w* warrant\\w* expir\\w* until days?
    revenue keep ask owe\\w* customers? clients? employees staff testers turnover humans void valid violat\\w*
    beta peaceful fair ethos please assets? artwork images graphics logos? neural residents citizens
    nicht\\w* kein\\w* nur verbot\\w* erlaubt kommerz\\w* privat\\w* comercia\\w* prohib\\w* interdi\\w* ni pas
    uniquement seulement utilisation solo solamente uso vieta\\w* divieto sans sem apenas proib\\w* niet alleen
"""
_RESTRICTING_PAIRS = (
    "provided that", "shared source", "source available", "subject to", "free for", "licensed to", "available to",
    "reserved for",
)  # fmt: skip
RESTRICTING = re.compile(f" (?:{'|'.join([*_RESTRICTING.split(), *_RESTRICTING_PAIRS])})(?= |$)")
_RESERVED = re.compile(r" (?:all |some )?rights? (?:are )?reserved(?= |$)")

# Restricting words that names of holders have; a line that begins with "Copyright" may hold them.
IN_COPYRIGHT_LINES = _words("""
    use used user users human good war business modifications machines mine personal rights production private
    distribution distributed additions licensors modified limited will grant price uses publishing intelligence ni
""")

# Words that say nothing by themselves.
PLAIN = _words("""
    a an the of and or by for in on at to from with within this that these those it its as is are was were be been has
    have had you your we our us all any each both other others et al see also here there below above following follows
    under per via which who whose into etc inc llc ltd gmbh co corp v i ii iii c r tm nd rd th st
    license licenses licensed licensing text texts terms full copy version versions file files notice notices copyright
    copyrights copyrighted reserved released release available provided included include includes including contained
    contains contain found detail details information info read readme project projects package packages software
    library libraries program programs source code sources repository module modules component components part parts
    portion portions third party contributors contributor contributed contributions authors author developers developer
    team community maintainers maintained maintainer written wrote created based original originally work works open
    http www com org net html txt md main name names url homepage website site web page folder directory directories
    subdirectory subdirectories stored located list lists listed applies apply applicable covered covers document
    documentation docs data bundled bundles bundle binary binaries header headers holder holders owner owners dual
    dually either option choice choose separate separately respective corresponding individual own several various
    foundation university institute company laboratory laboratories present current year date begin end start
    acknowledgements credits thanks thank history appendix section table contents index more about build built major
    minor initial first second new old simplified revised standard template tree root local
    downloaded packaging packaged packager debianized same later reproduced adapted extracted copied taken ported port
    converted cleaned reorganized added initially partially implementation implementations implemented methods method
    function functions routines algorithm unit tests test extensions extension examples example recipes crate crates
    dependencies dependency standard beyond therefore associated format parser phone fax telex street route
    trademark trademarks registered constituent supporting mentioned herein property respectively generated compiler
    interface tool tools
    parties cpython rationale externally des mirror prose page pages header website
    submodules submodule static type types checker language different reference various
    directly following python then up back out s js
""")

# Words by which one knows that a licence is meant.
_NAMES = _words("""
    mit expat bsd gpl gplv2 gplv3 lgpl lgplv2 lgplv3 agpl agplv3 gnu affero lesser apache mpl mozilla epl eclipse cddl
    cpl isc zlib libpng boost bsl busl sspl elastic polyform commons cc creative cc0 wtfpl unlicense artistic eupl
    cecill osl afl ofl psf ncsa json hippocratic openssl sleepycat fsl gfdl fdl odbl hpnd x11 upl ecl ruby clause llama
    openrail rail
""")


def restricts(words: str, allowed: frozenset[str] = frozenset()) -> bool:
    """Whether words take a right away, but for `allowed` ones and "all rights reserved"."""
    found = RESTRICTING.findall(_RESERVED.sub("", words))
    return any(word.strip() not in allowed for word in found)


def names_license(words: str) -> bool:
    """Whether words name a licence."""
    return not _NAMES.isdisjoint(words.split())
