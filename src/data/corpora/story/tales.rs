//! The words and scenes of the built-in corpus.
//!
//! A child goes somewhere; then something is lost, something is wished for, an animal is in need, or a toy gets away;
//! an animal and the child help each other; and the end fits what happened.

use super::grammar::{Grammar, Scene, Table};

pub static TALES: Grammar = Grammar { tables: TABLES, start: &[(3, &CHILD), (2, &CHILD_SOMEWHERE)] };

static TABLES: &[Table] = &[
    Table {
        marks: "name/he/his/him/child",
        rows: &[
            (6, "Mia/she/her/her/girl"),
            (6, "Tom/he/his/him/boy"),
            (5, "Anna/she/her/her/girl"),
            (5, "Ben/he/his/him/boy"),
            (4, "Lily/she/her/her/girl"),
            (4, "Sam/he/his/him/boy"),
            (3, "Rosa/she/her/her/girl"),
            (3, "Max/he/his/him/boy"),
        ],
    },
    Table { marks: "trait", rows: &[(5, "kind"), (4, "brave"), (3, "quiet"), (2, "shy")] },
    Table {
        marks: "place",
        rows: &[
            (6, "park"),
            (5, "lake"),
            (4, "farm"),
            (4, "pond"),
            (3, "hill"),
            (3, "barn"),
            (2, "mill"),
            (2, "beach"),
        ],
    },
    Table { marks: "animal", rows: &[(5, "fox"), (5, "dog"), (4, "cat"), (3, "bear"), (3, "duck"), (2, "hen")] },
    Table { marks: "look", rows: &[(4, "red"), (3, "blue"), (3, "green"), (2, "tiny")] },
    Table {
        marks: "thing",
        rows: &[(5, "ball"), (4, "drum"), (4, "book"), (4, "doll"), (3, "bell"), (3, "ring"), (3, "cup")],
    },
    // A toy that gets away, how, and how it is caught.
    Table {
        marks: "toy/escape/rescue",
        rows: &[
            (4, "ball/rolled into a hole/dug it out"),
            (3, "kite/flew into a tree/climbed up to it"),
            (3, "boat/drifted away/swam after it"),
            (2, "hat/blew away/ran after it"),
        ],
    },
    // A need, the gift that ends it, and how.
    Table {
        marks: "need/gift/use",
        rows: &[
            (5, "hungry/bread/ate it"),
            (4, "cold/scarf/put it on"),
            (3, "thirsty/milk/drank it"),
            (2, "sad/flower/smelled it"),
        ],
    },
    Table { marks: "weather", rows: &[(3, "sunny"), (2, "windy")] },
    Table { marks: "went", rows: &[(3, "went"), (2, "ran")] },
    Table { marks: "spot", rows: &[(4, "under a tree"), (3, "behind a rock"), (2, "in the grass")] },
    Table { marks: "thanked", rows: &[(3, "thanked"), (2, "hugged")] },
    Table { marks: "singing", rows: &[(3, "singing"), (2, "smiling")] },
];

pub static CHILD: Scene = Scene {
    settles: &["name", "trait"],
    wordings: &[
        (5, "Once there was a {trait} {child} named {name}."),
        (2, "This is the story of a {trait} {child} named {name}."),
    ],
    next: &[(1, &SOMEWHERE)],
};

static SOMEWHERE: Scene = Scene {
    settles: &["place"],
    wordings: &[(5, "One {weather} day, {he} {went} to the {place}."), (2, "{He} liked to play at the {place}.")],
    next: PLOTS,
};

pub static CHILD_SOMEWHERE: Scene = Scene {
    settles: &["name", "trait", "place"],
    wordings: &[
        (3, "One {weather} day, a {trait} {child} named {name} {went} to the {place}."),
        (2, "A {trait} {child} named {name} was at the {place}."),
    ],
    next: PLOTS,
};

static PLOTS: &[(u32, &Scene)] = &[(4, &LOSS), (3, &WISH), (3, &NEED), (3, &ESCAPE)];

pub static LOSS: Scene = Scene {
    settles: &["look", "thing"],
    wordings: &[(3, "There {he} lost {his} {look} {thing}."), (2, "{He} could not find {his} {look} {thing}.")],
    next: &[(1, &FINDING)],
};

pub static FINDING: Scene = Scene {
    settles: &["animal"],
    wordings: &[(3, "A {animal} found it {spot}."), (2, "{He} asked a {animal} for help, and it looked {spot}.")],
    next: &[(1, &GIVING_BACK)],
};

pub static GIVING_BACK: Scene = Scene {
    settles: &[],
    wordings: &[(3, "The {animal} gave {him} the {thing}."), (2, "{He} {thanked} the {animal} and took the {thing}.")],
    next: &[(1, &END)],
};

pub static WISH: Scene = Scene {
    settles: &["look", "thing"],
    wordings: &[(3, "{He} wished for a {look} {thing}."), (2, "There {he} wished for a {look} {thing}.")],
    next: &[(1, &EARNING)],
};

static EARNING: Scene = Scene {
    settles: &["animal"],
    wordings: &[(3, "A {animal} heard {him} and wanted to help."), (2, "So {he} helped a {animal} all day.")],
    next: &[(1, &GRANTING)],
};

static GRANTING: Scene = Scene {
    settles: &[],
    wordings: &[(3, "The {animal} gave {him} a {look} {thing}."), (2, "The {animal} made {him} a {look} {thing}.")],
    next: &[(1, &END)],
};

pub static NEED: Scene = Scene {
    settles: &["animal", "need"],
    wordings: &[(3, "There {he} met a {need} {animal}."), (2, "{He} saw a {animal} that was {need}.")],
    next: &[(1, &SHARING)],
};

pub static SHARING: Scene = Scene {
    settles: &[],
    wordings: &[(3, "So {he} gave it {his} {gift}."), (2, "{He} gave the {animal} {his} {gift}.")],
    next: &[(1, &RELIEF)],
};

pub static RELIEF: Scene = Scene {
    settles: &[],
    wordings: &[(3, "The {animal} {use} and was not {need} any more."), (2, "The {animal} {use} and said thank you.")],
    next: &[(1, &END)],
};

pub static ESCAPE: Scene = Scene {
    settles: &["look", "toy"],
    wordings: &[(3, "There {his} {look} {toy} {escape}."), (2, "{He} had a {look} {toy}, but it {escape}.")],
    next: &[(1, &RESCUE)],
};

pub static RESCUE: Scene = Scene {
    settles: &["animal"],
    wordings: &[(3, "A {animal} {rescue}."), (2, "{He} asked a {animal} for help, and it {rescue}.")],
    next: &[(3, &BACK_AGAIN), (2, &END)],
};

static BACK_AGAIN: Scene = Scene {
    settles: &[],
    wordings: &[(3, "The {animal} gave {him} the {toy}."), (2, "{He} {thanked} the {animal} and took the {toy}.")],
    next: &[(1, &END)],
};

static END: Scene = Scene {
    settles: &[],
    wordings: &[
        (4, "From then on, {name} and the {animal} were friends."),
        (3, "{He} and the {animal} played until dark."),
        (3, "{He} went home {singing}."),
        (2, "{He} was very happy."),
        (1, "What a {trait} {child} {he} was."),
    ],
    next: &[],
};
