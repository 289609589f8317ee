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
            (2, "Nora/she/her/her/girl"),
            (2, "Leo/he/his/him/boy"),
        ],
    },
    Table {
        marks: "trait",
        rows: &[(5, "kind"), (4, "brave"), (3, "quiet"), (3, "clever"), (2, "merry"), (2, "shy")],
    },
    Table {
        marks: "place/there",
        rows: &[
            (6, "park/in the park"),
            (5, "lake/by the lake"),
            (4, "hill/on the hill"),
            (4, "garden/in the garden"),
            (3, "river/by the river"),
            (3, "wood/in the wood"),
            (2, "farm/on the farm"),
            (2, "field/in the field"),
        ],
    },
    Table {
        marks: "animal",
        rows: &[
            (5, "fox"),
            (5, "dog"),
            (4, "cat"),
            (4, "bear"),
            (3, "duck"),
            (3, "frog"),
            (2, "hen"),
            (2, "mouse"),
            (2, "goat"),
        ],
    },
    Table { marks: "look", rows: &[(4, "red"), (3, "blue"), (3, "green"), (2, "big"), (2, "tiny")] },
    Table {
        marks: "thing",
        rows: &[
            (5, "ball"),
            (4, "drum"),
            (4, "book"),
            (3, "doll"),
            (3, "bell"),
            (3, "ring"),
            (3, "cup"),
            (2, "lamp"),
            (2, "flute"),
            (2, "cart"),
            (1, "key"),
            (1, "spoon"),
        ],
    },
    // What gets away, how, and how it is brought back.
    Table {
        marks: "toy/escape/rescue",
        rows: &[
            (4, "ball/rolled into a hole/dug it out"),
            (3, "kite/flew into a tree/climbed up to it"),
            (3, "boat/drifted away/swam after it"),
            (2, "hat/blew away/ran after it"),
        ],
    },
    // A need, what ends it, and how.
    Table {
        marks: "need/gift/use",
        rows: &[
            (5, "hungry/bread/ate it all"),
            (4, "cold/scarf/put it on"),
            (3, "thirsty/milk/drank it all"),
            (2, "sleepy/blanket/lay down on it"),
            (2, "wet/towel/rolled up in it"),
            (2, "sad/flower/smelled it"),
        ],
    },
    Table { marks: "weather", rows: &[(4, "sunny"), (3, "warm"), (2, "windy"), (2, "cold")] },
    Table { marks: "went", rows: &[(4, "went"), (3, "ran"), (2, "walked"), (1, "rode")] },
    Table { marks: "play", rows: &[(4, "play"), (2, "sing"), (2, "sit"), (1, "dance")] },
    Table { marks: "small", rows: &[(3, "small"), (2, "little"), (1, "white")] },
    Table { marks: "school", rows: &[(3, "school"), (2, "lunch"), (1, "breakfast")] },
    Table {
        marks: "spot",
        rows: &[(4, "under a tree"), (3, "behind a rock"), (3, "in the grass"), (2, "under a leaf")],
    },
    Table {
        marks: "chore",
        rows: &[(3, "find food"), (3, "get home"), (2, "dig a hole"), (2, "wash its ears")],
    },
    Table { marks: "thanked", rows: &[(4, "thanked"), (3, "hugged"), (1, "kissed")] },
    Table { marks: "dark", rows: &[(4, "dark"), (2, "supper"), (1, "the moon came up")] },
    Table { marks: "singing", rows: &[(3, "singing"), (3, "smiling"), (2, "laughing")] },
];

static CHILD: Scene = Scene {
    settles: &["name", "trait"],
    wordings: &[
        (5, "Once there was a {trait} {child} named {name}."),
        (4, "{name} was a {trait} {child}."),
        (2, "In a {small} house lived a {trait} {child} named {name}."),
    ],
    next: &[(1, &SOMEWHERE)],
};

static SOMEWHERE: Scene = Scene {
    settles: &["place"],
    wordings: &[
        (5, "One {weather} day, {he} {went} to the {place}."),
        (3, "{He} liked to {play} {there}."),
        (2, "After {school}, {name} {went} to the {place}."),
    ],
    next: PLOTS,
};

static CHILD_SOMEWHERE: Scene = Scene {
    settles: &["name", "trait", "place"],
    wordings: &[
        (3, "One {weather} day, a {trait} {child} named {name} {went} to the {place}."),
        (2, "A {trait} {child} named {name} sat {there}."),
    ],
    next: PLOTS,
};

static PLOTS: &[(u32, &Scene)] = &[(4, &LOSS), (3, &WISH), (3, &NEED), (3, &ESCAPE)];

static LOSS: Scene = Scene {
    settles: &["look", "thing"],
    wordings: &[
        (4, "There {he} lost {his} {look} {thing}."),
        (3, "{He} dropped {his} {look} {thing} and could not find it."),
        (2, "All at once, {his} {look} {thing} was gone."),
    ],
    next: &[(1, &FINDING)],
};

static FINDING: Scene = Scene {
    settles: &["animal"],
    wordings: &[
        (4, "A {animal} found it {spot}."),
        (3, "{name} asked a {animal}, and it looked {spot}."),
        (2, "{He} began to cry, but a {animal} saw it {spot}."),
    ],
    next: &[(1, &GIVING_BACK)],
};

static GIVING_BACK: Scene = Scene {
    settles: &[],
    wordings: &[
        (4, "The {animal} gave the {thing} back to {him}."),
        (3, "{name} took the {look} {thing} and {thanked} the {animal}."),
        (2, "{He} {thanked} the {animal} and held the {thing} tight."),
    ],
    next: &[(1, &END)],
};

static WISH: Scene = Scene {
    settles: &["look", "thing"],
    wordings: &[
        (4, "{He} wished for a {look} {thing}."),
        (3, "More than anything, {he} wanted a {look} {thing}."),
        (2, "{name} had no {look} {thing}, but {he} wanted one."),
    ],
    next: &[(1, &EARNING)],
};

static EARNING: Scene = Scene {
    settles: &["animal"],
    wordings: &[
        (4, "A {animal} heard {him} and wanted to help."),
        (3, "First {he} helped a {animal} {chore}."),
        (2, "A {animal} needed a friend, so {name} stayed all day."),
    ],
    next: &[(1, &GRANTING)],
};

static GRANTING: Scene = Scene {
    settles: &[],
    wordings: &[
        (4, "Then the {animal} gave {him} a {look} {thing}."),
        (3, "The next day, the {animal} made {him} a {look} {thing}."),
        (2, "The {animal} went home and came back with a {look} {thing}."),
    ],
    next: &[(1, &END)],
};

static NEED: Scene = Scene {
    settles: &["animal", "need"],
    wordings: &[
        (4, "There {he} met a {animal} that was {need}."),
        (3, "A {animal} came by, and it was very {need}."),
        (2, "{He} saw a {need} {animal}."),
    ],
    next: &[(1, &SHARING)],
};

static SHARING: Scene = Scene {
    settles: &[],
    wordings: &[
        (4, "So {name} gave it {his} {gift}."),
        (3, "{He} felt sorry and gave the {animal} {his} {gift}."),
        (2, "{name} had only {his} {gift}, but {he} gave it away."),
    ],
    next: &[(1, &RELIEF)],
};

static RELIEF: Scene = Scene {
    settles: &[],
    wordings: &[
        (4, "The {animal} {use} and was not {need} any more."),
        (3, "It {use}, and soon it felt much better."),
        (2, "The {animal} {use} and said thank you."),
    ],
    next: &[(1, &END)],
};

static ESCAPE: Scene = Scene {
    settles: &["look", "toy"],
    wordings: &[
        (4, "There {his} {look} {toy} {escape}."),
        (3, "{He} had a {look} {toy}, but it {escape}."),
        (2, "Then {name} cried, for {his} {look} {toy} {escape}."),
    ],
    next: &[(1, &RESCUE)],
};

static RESCUE: Scene = Scene {
    settles: &["animal"],
    wordings: &[
        (4, "A {animal} {rescue}."),
        (3, "{name} called for help, and a {animal} {rescue}."),
        (2, "{He} could not reach it, but a {animal} {rescue}."),
    ],
    next: &[(3, &BACK_AGAIN), (2, &END)],
};

static BACK_AGAIN: Scene = Scene {
    settles: &[],
    wordings: &[
        (4, "Soon the {look} {toy} was back in {his} hands."),
        (2, "{name} {thanked} the {animal} and took the {toy}."),
    ],
    next: &[(1, &END)],
};

static END: Scene = Scene {
    settles: &[],
    wordings: &[
        (4, "From then on, {name} and the {animal} were friends."),
        (3, "{He} went home {singing}."),
        (3, "{He} and the {animal} played {there} until {dark}."),
        (2, "{name} was a very happy {child}."),
        (1, "What a {trait} {child} {name} was."),
    ],
    next: &[],
};
