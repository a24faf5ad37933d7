// Calls as they happen, and what a change would do to them: a real tap and a real plan of the running shop.
import type { Locator, Page } from "@playwright/test";
import { expect, open, test, write } from "./support";

test.use({ viewport: { width: 1440, height: 900 } });

/** Opens a tap with these fields filled in, and gives its rows once there are some. */
async function tap(page: Page, fields: Record<string, string>): Promise<Locator> {
  await open(page, "/traffic");
  // Anew, where the page is open already.
  await page.reload();
  for (const [name, value] of Object.entries(fields)) {
    // What a choice is called, its options are part of.
    await (name === "Direction" ? page.getByLabel(/^Direction/).selectOption(value) : page.getByLabel(name, { exact: true }).fill(value));
  }
  await page.getByRole("button", { name: "Start", exact: true }).click();
  const rows = page.getByRole("region", { name: "Calls" }).locator("tbody tr");
  await expect(rows.first()).toBeVisible();
  return rows;
}

/** What a column says in every row that is shown. */
const column = (rows: Locator, at: number): Promise<string[]> => rows.evaluateAll((all, at) => all.map((row) => (row as HTMLTableRowElement).cells[at]?.textContent ?? ""), at);

test("a tap shows calls that fit its filter and no others, and the command that does the same", async ({ page }) => {
  const rows = await tap(page, { From: "orders", To: "inventory", Direction: "outbound" });
  await expect(() => expect(rows.count()).resolves.toBeGreaterThan(3)).toPass();
  expect(new Set(await column(rows, 3))).toEqual(new Set(["shop/orders"]));
  expect(new Set(await column(rows, 4))).toEqual(new Set(["shop/inventory"]));
  await expect(page.locator(".equivalent")).toContainText("weft tap -n shop --from orders --to inventory --direction outbound");
  // Another filter begins anew: nothing of the first is left.
  await page.getByLabel("From", { exact: true }).fill("");
  await page.getByLabel("To", { exact: true }).fill("users");
  await page.getByRole("button", { name: "Start anew" }).click();
  await expect(rows.first()).toContainText("shop/users");
  expect(new Set(await column(rows, 4))).toEqual(new Set(["shop/users"]));
  expect(new Set(await column(rows, 1))).toEqual(new Set(["gRPC 0"]));
});

test("a filter by status shows failed calls alone, and one that nothing fits shows that it listens", async ({ page }) => {
  const rows = await tap(page, { Service: "payments", Direction: "inbound", Status: "5xx" });
  for (const result of await column(rows, 1)) expect(result).toMatch(/^5\d\d$/);
  await page.getByLabel("Method", { exact: true }).fill("TRACE");
  await page.getByRole("button", { name: "Start anew" }).click();
  await expect(page.getByText("No call that fits has ended yet.")).toBeVisible();
  await page.getByRole("button", { name: "Stop", exact: true }).click();
  await expect(page.getByText("No tap is open")).toBeVisible();
});

test("a filter that the server refuses is said in its words", async ({ page, watched }) => {
  await open(page, "/traffic");
  await page.getByLabel("Status", { exact: true }).fill("many");
  await page.getByRole("button", { name: "Start", exact: true }).click();
  await expect(page.getByRole("alert")).toContainText('"many" is neither a status');
  // The browser says it, too.
  await expect(() => expect(watched.filter((wrong) => wrong.includes("400"))).toHaveLength(1)).toPass();
  watched.splice(0);
});

test("calls stand while they are held and are counted all the same, and go on", async ({ page }) => {
  const rows = await tap(page, { To: "storefront" });
  await page.getByRole("button", { name: "Hold" }).click();
  const [panel, region] = [page.getByRole("region", { name: "Calls" }).first(), page.getByRole("region", { name: "Calls" }).last()];
  const seen = async () => Number((/(\d[\d.,]*) seen/.exec((await panel.textContent()) ?? "")?.[1] ?? "0").replace(/[.,]/g, ""));
  // What was under way to the table is there now.
  const [before, counted] = [await region.textContent(), await seen()];
  await expect(async () => expect(await seen()).toBeGreaterThan(counted + 5)).toPass();
  expect(await region.textContent()).toBe(before);
  const amount = await rows.count();
  await page.getByRole("button", { name: "Go on" }).click();
  await expect(async () => expect(await rows.count()).toBeGreaterThan(amount)).toPass();
});

test("a call that was tried again shows its tries, and one that came in the policy that let it", async ({ page }) => {
  const rows = await tap(page, { From: "orders", To: "payments", Direction: "outbound" });
  // One in twenty fails at first and is tried again.
  const retried = rows.filter({ has: page.locator("td:nth-child(7)", { hasText: /^[2-9]$/ }) }).first();
  await expect(retried).toBeVisible({ timeout: 30_000 });
  await retried.getByRole("button").click();
  const call = page.getByRole("complementary", { name: "The call" });
  await expect(call.getByRole("heading", { name: /^\d tries$/ })).toBeVisible();
  const tries = call.getByRole("region", { name: "Tries" }).getByRole("listitem");
  await expect(tries.first()).toContainText("503");
  await expect(tries.first()).toContainText("shop/payments-1");
  expect(await tries.count()).toBeGreaterThan(1);
  await expect(call).toContainText("over mTLS");
  await expect(call).toContainText("spiffe://weft.local/ns/shop/sa/payments");
  await call.getByText(/^Request headers/).click();
  await expect(call.locator(".headers").first()).toContainText("idempotency-key");
  await call.getByRole("button", { name: "Close" }).click();
  await expect(call).toHaveCount(0);

  const came = await tap(page, { To: "payments", Direction: "inbound" });
  await came.first().getByRole("button").click();
  await expect(call.getByRole("region", { name: "Decision" })).toContainText("allowed");
  await expect(call.getByRole("region", { name: "Decision" })).toContainText("shop/payments orders");
  await expect(call).toContainText("shop/payments-1, inbound");
});

const DENY = (account: string) => `apiVersion: weft.mesh/v1alpha1
kind: AuthorizationPolicy
metadata: {name: forecast, namespace: shop}
spec:
  targetRefs: [{kind: Service, name: inventory}]
  action: Deny
  rules:
    - name: nobody
      from: [{serviceAccounts: [${account}]}]
`;

test("before an apply the page says which live calls a policy would deny, and that another would deny none", async ({ page }) => {
  await open(page, "/policies/new?service=shop/inventory");
  const forecast = page.getByRole("region", { name: "Forecast", exact: true }).first();
  // What was called is told by the sidecars every few seconds.
  await expect(async () => {
    await write(page, DENY("orders"));
    await page.getByRole("button", { name: "Check", exact: true }).click();
    await expect(forecast).toContainText("Calls that are made now would be denied.", { timeout: 3000 });
  }).toPass();
  const row = forecast.getByRole("row", { name: /shop\/orders → shop\/inventory/ }).first();
  await expect(row).toContainText("denied");
  await expect(row).toContainText("shop/forecast");
  await expect(row).toContainText("100 %");
  await expect(row).toContainText(/\d\/s/);
  await write(page, DENY("users"));
  await expect(forecast, "a forecast is of what stands in the editor").toHaveCount(0);
  await page.getByRole("button", { name: "Check", exact: true }).click();
  await expect(forecast).toContainText(/None of the \d[\d,.]*[kM]? calls seen in .* would be treated otherwise/);
  await expect(page.getByRole("button", { name: "Apply", exact: true })).toBeEnabled();
  // Neither was written.
  await open(page, "/policies?kind=authorizationpolicies");
  await expect(page.getByRole("link", { name: "payments", exact: true })).toBeVisible();
  await expect(page.getByRole("link", { name: "forecast", exact: true })).toHaveCount(0);
});
