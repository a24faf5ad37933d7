// Begins the page.
import { render } from "preact";
import "./styles/base.css";
import "./styles/shell.css";
import "./styles/parts.css";
import "uplot/dist/uPlot.min.css";
import { attend } from "./api/live";
import { attendRights } from "./api/rights";
import { App } from "./app";
import { listen } from "./router";

listen();
attend();
attendRights();
const place = document.getElementById("app");
if (place) render(<App />, place);
