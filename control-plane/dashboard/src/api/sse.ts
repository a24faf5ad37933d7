// Server-sent events read from a fetch, which carries the token as EventSource cannot (HTML standard §9.2.6). Bounded.

/** One event. */
export interface Message {
  event: string;
  data: string;
}

/** Longest event, in characters: a stream that is longer is broken off. */
const MAX_EVENT = 64 * 1024 * 1024;

/** The events of a stream; `alive` is called with each chunk, comments included. */
export async function* events(response: Response, alive: () => void = () => undefined): AsyncGenerator<Message> {
  if (!response.body) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = "message";
  let data: string[] = [];
  let length = 0;
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      alive();
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop() ?? "";
      length += value.length;
      if (length > MAX_EVENT) throw new Error("an event of the stream is too long");
      for (const line of lines) {
        if (line === "") {
          if (data.length > 0) yield { event, data: data.join("\n") };
          [event, data, length] = ["message", [], 0];
        } else if (!line.startsWith(":")) {
          const colon = line.indexOf(":");
          const name = colon < 0 ? line : line.slice(0, colon);
          const text = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
          if (name === "event") event = text;
          else if (name === "data") data.push(text);
        }
      }
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}
