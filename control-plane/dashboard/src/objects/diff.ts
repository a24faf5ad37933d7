// What changes between two texts, line by line: a longest common subsequence, which is small for texts of this size. Pure.

export interface Line {
  kind: "same" | "gone" | "new" | "skip";
  text: string;
}

/** Beyond this the whole is shown as replaced. */
const MOST = 3000;

export function diff(before: string, after: string, around = 3): Line[] {
  const [a, b] = [lines(before), lines(after)];
  return folded(a.length > MOST || b.length > MOST ? replaced(a, b) : compared(a, b), around);
}

const lines = (text: string) => (text === "" ? [] : text.replace(/\n$/, "").split("\n"));
const replaced = (a: string[], b: string[]): Line[] => [...a.map((text): Line => ({ kind: "gone", text })), ...b.map((text): Line => ({ kind: "new", text }))];

function compared(a: string[], b: string[]): Line[] {
  // longest[i][j]: of a from i and b from j.
  const width = b.length + 1;
  const longest = new Uint16Array((a.length + 1) * width);
  const of = (i: number, j: number) => longest[i * width + j] ?? 0;
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) longest[i * width + j] = a[i] === b[j] ? of(i + 1, j + 1) + 1 : Math.max(of(i + 1, j), of(i, j + 1));
  }
  const found: Line[] = [];
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      found.push({ kind: "same", text: a[i] ?? "" });
      i += 1;
      j += 1;
    } else if (i < a.length && (j >= b.length || of(i + 1, j) >= of(i, j + 1))) {
      found.push({ kind: "gone", text: a[i] ?? "" });
      i += 1;
    } else {
      found.push({ kind: "new", text: b[j] ?? "" });
      j += 1;
    }
  }
  return found;
}

function folded(all: Line[], around: number): Line[] {
  const near = all.map((_, at) => all.slice(Math.max(0, at - around), at + around + 1).some(({ kind }) => kind !== "same"));
  return all.flatMap((line, at): Line[] => {
    if (near[at]) return [line];
    if (at > 0 && !near[at - 1]) return [];
    let length = 1;
    while (at + length < all.length && !near[at + length]) length += 1;
    return [{ kind: "skip", text: `${length} lines as before` }];
  });
}
