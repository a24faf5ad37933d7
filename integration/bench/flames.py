"""Stacks of `perf script` folded into a tree, and the tree drawn as an SVG: the root below, callees on top, width is the share of samples. Hover for the whole name."""

import html
import re

WIDTH, ROW, LEAST = 1400, 17, 1.2
HASH = re.compile(r"::h[0-9a-f]{16}$")
# What every stack of a runtime's thread begins with says nothing.
BEGINNING = re.compile(r"clone3$|start_thread$|\[unknown\]$|std::(sys|thread)|<std::sys::thread|core::ops::function|weft_proxy::app::worker::work$|tokio::runtime::(runtime|context|scheduler)")
KERNEL = re.compile(r"\[(kernel|guest\.kernel)")


class Node:
    def __init__(self, name, kind):
        self.name, self.kind, self.count, self.children = name, kind, 0, {}

    def child(self, name, kind):
        if name not in self.children:
            self.children[name] = Node(name, kind)
        return self.children[name]

    def depth(self):
        return 1 + max((c.depth() for c in self.children.values()), default=0)


def fold(lines):
    """The tree of all samples. A sample is a head line, its frames from the leaf on, and an empty line."""
    root, frames, comm = Node("all", "root"), [], None

    def close():
        if comm is None:
            return
        node = root
        node.count += 1
        while frames and BEGINNING.match(frames[-1][0]):
            frames.pop()
        for name, kind in [(comm, "thread"), *reversed(frames)]:
            node = node.child(name, kind)
            node.count += 1
    for line in lines:
        if not line.strip():
            close()
            frames, comm = [], None
        elif comm is None:
            comm = line.split()[0]
        else:
            found = re.match(r"\s*[0-9a-f]+\s+(.*) \((.*)\)\s*$", line)
            if found:
                name, place = HASH.sub("", found[1]), found[2]
                name = re.sub(r"\+0x[0-9a-f]+$", "", name)
                frames.append((place.rsplit("/", 1)[-1] if name == "[unknown]" else name, "kernel" if KERNEL.search(place) else kind_of(name)))
    close()
    return root


def kind_of(name):
    if name.startswith(("weft_", "<weft_")):
        return "weft"
    if re.match(r"<?(rustls|tokio_rustls|aws_lc|webpki|ring)|.*(aesni|aes_|gcm|ghash|EVP|CRYPTO)", name):
        return "tls"
    if re.match(r"<?(h2|hyper|http|httparse|bytes)", name):
        return "http"
    return "other"


COLOURS = {"root": "#ddd", "thread": "#ccc", "weft": "#f4a259", "tls": "#8cb369", "http": "#5b8e7d", "kernel": "#9db4c0", "other": "#f4e285"}
LEGEND = {"weft": "Weft", "http": "HTTP libraries", "tls": "TLS and cryptography", "kernel": "kernel", "other": "runtime and other"}


def draw(root, title):
    depth = root.depth()
    height = (depth + 3) * ROW + 10
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="11">',
           f'<rect width="100%" height="100%" fill="white"/><text x="8" y="15" font-size="13">{html.escape(title)}</text>']
    x = WIDTH - 620
    for kind, words in LEGEND.items():
        out.append(f'<rect x="{x}" y="5" width="11" height="11" fill="{COLOURS[kind]}"/><text x="{x + 15}" y="15">{words}</text>')
        x += 30 + 7 * len(words)

    def visit(node, left, level):
        width = node.count / root.count * WIDTH
        if width < LEAST:
            return
        top = height - (level + 1) * ROW - 5
        share = f"{node.name}: {node.count} samples, {node.count / root.count:.1%}"
        room = int((width - 6) / 6.2)
        text = node.name if len(node.name) <= room else node.name[:max(room - 1, 0)] + "…"
        label = f'<text x="{left + 3:.1f}" y="{top + 12}">{html.escape(text)}</text>' if room > 2 else ""
        out.append(f'<g><title>{html.escape(share)}</title><rect x="{left:.1f}" y="{top}" width="{max(width - 0.5, 0.5):.1f}" height="{ROW - 1}" rx="1" '
                   f'fill="{COLOURS[node.kind]}"/>{label}</g>')
        for child in sorted(node.children.values(), key=lambda c: c.name):
            visit(child, left, level + 1)
            left += child.count / root.count * WIDTH
    if root.count:
        visit(root, 0.0, 0)
    return "\n".join([*out, "</svg>\n"])


def leaves(root, most=12):
    """Where the samples were, most first: name and share."""
    own = {}

    def visit(node):
        rest = node.count - sum(c.count for c in node.children.values())
        if rest and node.kind not in ("root", "thread"):
            own[node.name] = own.get(node.name, 0) + rest
        for child in node.children.values():
            visit(child)
    visit(root)
    return [(name, count / max(root.count, 1)) for name, count in sorted(own.items(), key=lambda p: -p[1])[:most]]
