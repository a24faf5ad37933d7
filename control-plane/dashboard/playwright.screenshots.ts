// `make screenshots`: pictures of every page, taken of a running shop.
import { defineConfig } from "@playwright/test";
import suite from "./playwright.config";

export default defineConfig({ ...suite, projects: [{ name: "screenshots", testMatch: "screenshots.ts" }], workers: 1, fullyParallel: false, timeout: 300_000 });
