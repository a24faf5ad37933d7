// Lays graphs out beside the page's own thread.
import { layout, type Question } from "./layout";

addEventListener("message", (event: MessageEvent<Question>) => postMessage(layout(event.data)));
