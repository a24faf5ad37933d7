// A mesh of 300 services and 1,500 edges, told by a server that speaks as the control plane does: the only data that is made here.
import { createReadStream, existsSync, statSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join } from "node:path";
import { expect, test } from "@playwright/test";

const [SERVICES, EDGES] = [300, 1500];
const TYPES: Record<string, string> = { ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html" };
const POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; worker-src 'self'";

/** Numbers that are the same in each run (Lehmer's generator). */
function numbers(): () => number {
  let state = 7;
  return () => (state = (state * 16_807) % 2_147_483_647) / 2_147_483_647;
}

const name = (at: number) => `team-${Math.floor(at / 25)}/service-${at}`;

function rows(): { services: object[]; edges: object[] } {
  const next = numbers();
  const figures = () => {
    const calls = Math.floor(next() * 5000) + 1;
    const failures = next() < 0.05 ? Math.floor(calls * 0.2) : 0;
    return { calls, rps: calls / 10, success: 1 - failures / calls, successBeforeRetries: 1 - failures / calls, p50Ms: next() * 5, p95Ms: next() * 50, p99Ms: next() * 200, failures, retries: 0, mtls: 1, unsent: 0, attempts: calls, failedAttempts: failures, bytesSent: 0, bytesReceived: 0, tcpConnections: 0, openBreakers: 0, breakerOpenings: 0 };
  };
  const edges = new Map<string, object>();
  while (edges.size < EDGES) {
    const from = Math.floor(next() * (SERVICES - 1));
    const to = Math.min(SERVICES - 1, from + 1 + Math.floor(next() * 40));
    edges.set(`${from} ${to}`, { source: name(from), service: name(to), ...figures() });
  }
  return { services: Array.from({ length: SERVICES }, (_, at) => ({ service: name(at), endpoints: 2, readyEndpoints: 2, ...figures() })), edges: [...edges.values()] };
}

let server: Server;
let events = 0;

test.beforeAll(async () => {
  const document = rows();
  server = createServer((request, response) => {
    const { pathname } = new URL(request.url ?? "/", "http://localhost");
    if (pathname.startsWith("/dashboard")) {
      const file = join("dist", pathname.slice("/dashboard".length));
      const found = existsSync(file) && statSync(file).isFile() ? file : "dist/index.html";
      response.writeHead(200, { "content-type": TYPES[extname(found)] ?? "text/plain", "content-security-policy": POLICY });
      createReadStream(found).pipe(response);
    } else if (pathname === "/weft/v1/live") {
      response.writeHead(200, { "content-type": "text/event-stream" });
      // Each time every row is another: more than a mesh would say.
      const next = numbers();
      const tell = (full: boolean) => {
        for (const row of [...document.services, ...document.edges] as { rps: number; calls: number }[]) row.rps = row.calls / 10 * (0.5 + next());
        response.write(`event: stat\ndata: ${JSON.stringify({ full, windowSeconds: 10, ...document, endpoints: [], routes: [], ...(full ? { breakers: [] } : { gone: {} }) })}\n\n`);
        events += 1;
      };
      tell(true);
      response.write(`event: problems\ndata: {"items":[]}\n\nevent: fleet\ndata: {"connected":600,"streams":600,"generation":7,"waiting":0}\n\n`);
      const timer = setInterval(() => tell(false), 1000);
      response.on("close", () => clearInterval(timer));
    } else {
      response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ items: [], status: { allowed: true, userInfo: { username: "ann" } } }));
    }
  });
  await new Promise<void>((ready) => server.listen(0, "127.0.0.1", ready));
});

test.afterAll(() => {
  server.closeAllConnections();
  server.close();
});

const origin = () => `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

test("300 services are groups first, which open and lead to what is near", async ({ page }) => {
  await page.goto(`${origin()}/dashboard/topology`);
  const group = page.getByRole("button", { name: /^group team-3, 25 services/ });
  await expect(group).toBeVisible();
  expect(await page.locator(".node").count()).toBe(12);
  await group.press("Enter");
  await page.getByRole("button", { name: /^Show its 25 services/ }).click();
  await expect(page.locator(".node")).toHaveCount(11 + 25);
  await page.getByPlaceholder("Near a service …").fill("team-3/service-80");
  await page.getByPlaceholder("Near a service …").press("Enter");
  await expect(page.getByRole("button", { name: /^team-3\/service-80: / })).toBeVisible();
  expect(await page.locator(".node").count()).toBeLessThan(40);
});

test("300 services and 1,500 edges update live without a long task over 100 ms", async ({ page }) => {
  await page.setViewportSize({ width: 1440, height: 900 });
  await page.goto(`${origin()}/dashboard/topology?by=service`);
  await expect(page.locator(".node")).toHaveCount(SERVICES, { timeout: 20_000 });
  await page.evaluate(() => {
    const tasks: number[] = [];
    Object.assign(window, { tasks });
    new PerformanceObserver((list) => tasks.push(...list.getEntries().map(({ duration }) => duration))).observe({ type: "longtask", buffered: false });
  });
  const [figure, before] = [page.locator(".node small").first(), events];
  const first = await figure.textContent();
  await expect(() => expect(events - before).toBeGreaterThan(6)).toPass({ timeout: 20_000 });
  expect(await figure.textContent(), "the picture lives").not.toBe(first);
  const tasks = await page.evaluate(() => (window as unknown as { tasks: number[] }).tasks);
  console.log(`long tasks: ${tasks.map((task) => `${Math.round(task)} ms`).join(", ") || "none over 50 ms"}`);
  expect(Math.max(0, ...tasks)).toBeLessThan(100);
});
