// Asks a Prometheus what a dashboard asks, as Grafana's data source for it does.
import {
  type DataFrame, dateTime, FieldType, rangeUtil, type TimeRange, toDataFrame,
} from "@grafana/data";
import type { Dashboard } from "./dashboard";

type Annotation = Dashboard["annotations"]["list"][number];
type Query = Extract<Dashboard["panels"][number], { targets: unknown }>["targets"][number];
export type Variables = Record<string, string>;
export interface View {
  prometheus: string; // its address
  seconds: number; // from scrape to scrape, as the data source's settings say
  start: number; // Unix time in seconds
  end: number;
}
export interface Event {
  from: number; // Unix time in milliseconds
  to: number;
  color: string;
}
interface Series {
  metric: Record<string, string>;
  values: [number, string][];
}

export function timeRange(view: View): TimeRange {
  const [from, to] = [dateTime(1000 * view.start), dateTime(1000 * view.end)];
  return { from, to, raw: { from, to } };
}

// What the dashboard's variables are before somebody chooses: the first value of a label, if any.
export async function valuesOf(dashboard: Dashboard, view: View): Promise<Variables> {
  const values: Variables = {};
  for (const variable of dashboard.templating.list) {
    if (variable.type === "datasource") {
      values[variable.name] = view.prometheus;
    } else {
      const [, metric, label] = /^label_values\((.+), (\w+)\)$/.exec(variable.query.query)!;
      const address = fill(variable.datasource.uid, values);
      const match = { "match[]": fill(metric, values) };
      const found = await get(`${address}/api/v1/label/${label}/values`, match);
      values[variable.name] = found[0] ?? "";
    }
  }
  return values;
}

// A frame for each series; there is room for `width` points.
export async function framesOf(
  queries: Query[], width: number, variables: Variables, view: View
): Promise<DataFrame[]> {
  const { intervalMs } = rangeUtil.calculateInterval(timeRange(view), width, `${view.seconds}s`);
  const step = intervalMs / 1000;
  const rate = Math.max(step + view.seconds, 4 * view.seconds);
  const values = { ...variables, __rate_interval: `${rate}s` };
  const frames = queries.map(async ({ datasource, expr, legendFormat }) => {
    const series = await ask(datasource.uid, expr, step, values, view);
    return series.map((one) => frameOf(one, legendFormat, step));
  });
  return (await Promise.all(frames)).flat();
}

function frameOf({ metric, values }: Series, legend: string, step: number): DataFrame {
  const numbers = values.map(([, value]) => Number(value));
  const displayNameFromDS = legend.replace(/\{\{(\w+)\}\}/g, (_, label) => metric[label] ?? "");
  return toDataFrame({
    fields: [
      {
        name: "Time", type: FieldType.time, config: { interval: 1000 * step },
        values: values.map(([time]) => 1000 * time),
      },
      {
        name: "Value", type: FieldType.number, labels: metric, config: { displayNameFromDS },
        values: numbers.map((value) => (Number.isFinite(value) ? value : null)), // a gap
      },
    ],
  });
}

// The times during which the annotation's series are there.
export async function eventsOf(
  annotation: Annotation, variables: Variables, view: View
): Promise<Event[]> {
  const { datasource, target } = annotation;
  const events: Event[] = [];
  for (const { values } of await ask(datasource.uid, target.expr, view.seconds, variables, view)) {
    values.forEach(([time], number) => {
      if (number === 0 || time > values[number - 1][0] + view.seconds) {
        events.push({ from: 1000 * time, to: 1000 * time, color: annotation.iconColor });
      }
      events.at(-1)!.to = 1000 * time;
    });
  }
  return events;
}

async function ask(
  source: string, expression: string, step: number, variables: Variables, view: View
): Promise<Series[]> {
  const query = fill(expression, variables);
  const times = { start: `${view.start}`, end: `${view.end}`, step: `${step}` };
  return (await get(`${fill(source, variables)}/api/v1/query_range`, { query, ...times })).result;
}

async function get(url: string, parameters: Record<string, string>) {
  const answer = await fetch(`${url}?${new URLSearchParams(parameters)}`);
  const { status, error, data } = await answer.json();
  if (status !== "success") {
    throw new Error(`Prometheus refuses ${JSON.stringify(parameters)}: ${error}`);
  }
  return data;
}

function fill(text: string, variables: Variables): string {
  return text.replace(/\$\{(\w+)\}|\$(\w+)/g, (variable, braced, bare) => {
    const value = variables[braced ?? bare];
    if (value === undefined) {
      throw new Error(`the dashboard has no variable ${variable}, which ${text} uses`);
    }
    return value;
  });
}
