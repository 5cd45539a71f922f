"""Colours and markers of figures: Okabe and Ito's, which colour-blind people can tell apart; markers, in grey, too."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY, INK = "#777777", "#222222"
