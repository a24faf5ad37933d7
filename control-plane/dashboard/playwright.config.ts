// The dashboard in Debian's Chromium, against a shop that the suite starts and ends.
import { defineConfig } from "@playwright/test";

export default defineConfig({
  testDir: "test",
  // The large mesh by itself: its tasks are timed.
  projects: [{ name: "shop", testMatch: ["pages.spec.ts", "drive.spec.ts", "traffic.spec.ts", "viewer.spec.ts"] }, { name: "fleet", testMatch: "fleet.spec.ts", fullyParallel: false, dependencies: ["shop"] }],
  globalSetup: "./test/mesh.ts",
  outputDir: "test-results",
  workers: 2,
  fullyParallel: true,
  timeout: 60_000,
  expect: { timeout: 10_000 },
  forbidOnly: true,
  reporter: "list",
  use: { launchOptions: { executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] } },
});
