// Text to token ids and back: characters, or byte-level BPE.

export function tokenizerOf(description) {
  return description.kind === "characters" ? new Characters(description) : new BytePairs(description);
}

class Characters {
  constructor({ tokens, before }) {
    Object.assign(this, { tokens, before, ids: new Map(tokens.map((token, id) => [token, id])) });
  }

  encode(text) {
    return [...text].map(c => {
      if (!this.ids.has(c)) throw new Error(`The model does not know the character “${c}”: it knows ${this.tokens.map(t => (t === "\n" ? "line breaks" : t)).join(" ")}`);
      return this.ids.get(c);
    });
  }

  // The text without the characters that there are no tokens for, and how many those were.
  known(text) {
    const all = [...text], known = all.filter(c => this.ids.has(c));
    return { text: known.join(""), lost: all.length - known.length };
  }

  prompt(text) { return this.encode(text); }
  decode(ids) { return ids.map(id => this.tokens[id]).join(""); }
  stream() { return id => this.tokens[id]; }
  shown(id) { return this.tokens[id]; }
}

// GPT-2's printable characters for the 256 bytes.
function alphabet() {
  const printable = byte => (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
  let other = 0x100;
  return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(printable(byte) ? byte : other++));
}

class BytePairs {
  constructor({ tokens, merges, special, pieces, whole, before }) {
    this.letters = alphabet();
    this.bytes = new Map(this.letters.map((letter, byte) => [letter, byte]));
    this.ranks = new Map(merges.map(([a, b], rank) => [`${a} ${b}`, rank]));
    this.pieces = pieces && new RegExp(pieces, "gu");
    const names = Object.keys(special).sort((a, b) => b.length - a.length);
    this.cut = names.length > 0 && new RegExp(`(${names.map(name => name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|")})`);
    Object.assign(this, { tokens, special, whole, before, ids: new Map(tokens.map((token, id) => [token, id])), known_: new Map() });
  }

  encode(text) {
    const parts = this.cut ? text.split(this.cut) : [text];
    return parts.flatMap(part => (Object.hasOwn(this.special, part) ? [this.special[part]] : this.ordinary(part)));
  }

  ordinary(text) {
    const pieces = this.pieces ? cut(text, this.pieces) : [text];
    return pieces.filter(piece => piece !== "").flatMap(piece => {
      if (!this.known_.has(piece)) this.known_.set(piece, this.merged([...new TextEncoder().encode(piece)].map(byte => this.letters[byte])));
      return this.known_.get(piece);
    });
  }

  // The pair of the lowest rank is joined, the first of equals, until there is none.
  merged(parts) {
    const all = parts.join("");
    if (this.whole && this.ids.has(all)) return [this.ids.get(all)];
    for (;;) {
      let best = Infinity, at = -1;
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = this.ranks.get(`${parts[i]} ${parts[i + 1]}`) ?? Infinity;
        if (rank < best) [best, at] = [rank, i];
      }
      if (at < 0) return parts.map(part => this.ids.get(part));
      parts.splice(at, 2, parts[at] + parts[at + 1]);
    }
  }

  prompt(text) { return [...this.before, ...this.encode(text)]; }

  known(text) { return { text, lost: 0 }; }

  bytesOf(id) {
    const token = this.tokens[id];
    if (Object.hasOwn(this.special, token)) return new TextEncoder().encode(token);
    return Uint8Array.from([...token], letter => this.bytes.get(letter) ?? 0x3f);
  }

  decode(ids) {
    const push = this.stream();
    return ids.map(push).join("") + push();
  }

  // Decodes ids one at a time: a character appears once all of its bytes have come.
  stream() {
    const decoder = new TextDecoder();
    return id => (id === undefined ? decoder.decode() : decoder.decode(this.bytesOf(id), { stream: true }));
  }

  shown(id) { return new TextDecoder().decode(this.bytesOf(id)); }
}

// A text in pieces: matches, and what lies between them.
function cut(text, pattern) {
  const pieces = [];
  let end = 0;
  for (const match of text.matchAll(pattern)) {
    pieces.push(text.slice(end, match.index), match[0]);
    end = match.index + match[0].length;
  }
  return [...pieces, text.slice(end)];
}
