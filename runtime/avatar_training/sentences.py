"""The spoken texts: random words for training, whole unseen sentences for the evaluation."""

from __future__ import annotations

from typing import Final

TRAINING_WORDS: Final = (
    "about above after again air all along also always among and animal another answer any apple "
    "arm around ask autumn away baby back bad bag ball bank base bath beach bean bear beautiful "
    "because bed before begin behind below between big bird black blue boat body bone book both "
    "bottle box boy bread break bridge bright bring brother brown build bus busy but butter buy "
    "cake call came camera car care carry castle cat chair change cheap check cheese child choice "
    "church circle city clean clear clock close cloud coat coffee cold come cook corner count "
    "country cover cow cross crowd cup dance dark daughter day deep dinner do doctor dog door down "
    "draw dream dress drink drive dry duck early earth east easy eat edge egg eight empty end "
    "enough evening every eye face fair fall family far farm fast father feel fence few field "
    "finger fire first fish five floor flower fly follow food foot for forest four free fresh "
    "friend from front fruit full game garden gave girl give glass go gold good grass great green "
    "ground group grow hair half hall hand happy hard hat have he head hear heart heavy hello help "
    "here high hill hold home hope horse hot house how huge hundred ice idea in island jacket job "
    "join joy juice jump just keep key kind king kitchen knife know lake lamp language large last "
    "late laugh leaf learn leave left leg lemon letter light like line lion list listen little "
    "live long look loud love low lunch machine make man many map market may me meal measure meat "
    "meet men milk million mind mirror money month moon more morning mother mountain mouse mouth "
    "move much music must name near neck need never new news next nice night nine noise north nose "
    "not nothing now number oak of off office often oil old on once one onion only open orange "
    "order other our out over own page paint paper park part party pass path pay peace pen people "
    "pepper perhaps picture pie piece pink place plan plant play please pleasure point pool poor "
    "possible potato power press price pull purple push put queen question quick quiet rabbit "
    "radio rain reach read ready red rest rice rich ride right ring river road rock roof room "
    "round rule run sad safe salt same sand say school sea seat second see seven shade shape share "
    "sharp she sheep ship shirt shoe shop short shoulder show side silver simple sing sister sit "
    "six size skin sky sleep slow small smile smooth snow so soap soft some song soon sound soup "
    "south space speak spoon spring square stand star start station stay step stone stop store "
    "storm story street strong sugar summer sun sure sweet swim table take talk tall tea teach "
    "team ten thank that the then there thick thin thing think third this those thought thousand "
    "three through thumb time to today together tomorrow tooth top touch toward town toy train "
    "travel tree true try turn twelve two uncle under until up us use valley very video view "
    "village visit voice wait walk wall want war warm wash watch water wave way we weather week "
    "well west wet what wheel when where which white who why wide wife will wind window winter "
    "wish with wolf woman wonder wood word work world would write year yellow yes yesterday you "
    "young zero zoo"
).split()

HELD_OUT_SENTENCES: Final = (
    "The committee approved a modest budget for the observatory, although nobody had seen it.",
    "Five hungry foxes vanished behind the hawthorn hedge before anyone could photograph them.",
    "My neighbour bakes marvellous plum tarts whenever the first frost arrives.",
    "A lighthouse keeper measures patience in ropes, ladders and very small repairs.",
    "Would you choose the wooden flute, or shall we borrow the trumpet from Joshua?",
    "Professor Beaumont explained why bubbles burst: gravity pulls the film thin.",
    "Thirty-three thieves thought that they thrilled the throne throughout Thursday.",
    "Our ferry leaves at a quarter past four; the harbour café sells soup and warm rolls.",
    "Imagine an orchestra of kettles, each one whistling its own peculiar tune.",
    "She packed a compass, two jerseys, a bag of almonds and an unfinished novel.",
    "Please remember to feed the parrots, otherwise they will recite the entire alphabet.",
    "The museum owns a clock whose hands have moved backwards since the flood.",
    "Perhaps a gentle voice persuades more people than the loudest argument.",
    "Above the viaduct, a pair of herons circled slowly and then settled on the weir.",
    "We pushed the broken van up the avenue, laughing like schoolboys all the way.",
    "Good evening, and welcome: tonight we discuss volcanoes, velvet and vowel shifts.",
)

MINIMAL_PAIR: Final = ("Ma pa papa, ma bah baa mamma.", "Moo poo pooh pooh, moo boo boo moo.")
"""Two utterances that differ only in their vowels: the mouths must differ visibly."""

DEMO_TEXT: Final = (
    "Hello, and welcome. I am a small demo avatar, drawn by a program. "
    "My mouth follows every word that you hear."
)
