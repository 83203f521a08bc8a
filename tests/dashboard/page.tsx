// Draws a dashboard with Grafana's own components. Its panels are in no package: what they do around
// the components is done here.
import {
  applyFieldOverrides, colorManipulator, createTheme, type DataFrame, fieldReducers,
  getFieldDisplayValues, getValueFormats, identityOverrideProcessor, Registry, ThemeContext,
} from "@grafana/data";
import {
  BigValue, GlobalStyles, Icon, PanelChrome, TimeSeries, type UPlotConfigBuilder, VizRepeater,
} from "@grafana/ui";
import { defaultsDeep } from "lodash";
import { type ReactNode, useLayoutEffect } from "react";
import { flushSync } from "react-dom";
import { createRoot } from "react-dom/client";
import { type Event, eventsOf, framesOf, timeRange, valuesOf, type View } from "./answers";
import type { Dashboard } from "./dashboard";

type Row = Extract<Dashboard["panels"][number], { type: "row" }>;
type Panel = Exclude<Dashboard["panels"][number], Row>;
interface Content {
  panel: Panel;
  frames: DataFrame[];
  events: Event[];
  view: View;
  width: number;
  height: number;
}

// What Grafana's panels take where the JSON says nothing.
const COLOR = { timeseries: "palette-classic", stat: "thresholds" };
const CUSTOM = {
  axisPlacement: "auto", drawStyle: "line", fillOpacity: 0, gradientMode: "none",
  lineInterpolation: "linear", lineStyle: { fill: "solid" }, lineWidth: 1, pointSize: 5,
  showPoints: "auto", spanNulls: false, stacking: { group: "A", mode: "none" },
  thresholdsStyle: { mode: "off" },
};
// What can be said of a field, by the names that overrides use.
const SETTINGS = [
  "color", "custom.axisSoftMax", "decimals", "max", "min", "noValue", "thresholds", "unit",
  ...Object.keys(CUSTOM).map((name) => `custom.${name}`),
];
const REGISTRY = new Registry<any>(() => SETTINGS.map((id) => ({
  id, name: id, path: id.replace("custom.", ""), isCustom: id.startsWith("custom."),
  process: identityOverrideProcessor, shouldApply: () => true,
})));
const UNITS = getValueFormats().flatMap(({ submenu }) => submenu!.map(({ value }) => value));
const BOARD = document.getElementById("dashboard")!;
const THEME = createTheme({ colors: { mode: "light" } });
const { getColorByName } = THEME.visualization;

async function draw(dashboard: Dashboard, view: View): Promise<void> {
  const root = createRoot(BOARD);
  flushSync(() => root.render(<Themed />));
  await document.fonts.load("12px Inter"); // which text on canvases doesn't wait for
  const variables = await valuesOf(dashboard, view);
  const { list } = dashboard.annotations;
  const events = (await Promise.all(list.map((one) => eventsOf(one, variables, view)))).flat();
  const places = await Promise.all(dashboard.panels.map(async (panel) => {
    const { width, height, ...corner } = placeOf(panel);
    const style = { position: "absolute" as const, width, height, ...corner };
    if (panel.type === "row") {
      return <h5 key={panel.id} style={style}><Icon name="angle-down" /> {panel.title}</h5>;
    }
    const frames = styled(panel, await framesOf(panel.targets, width, variables, view));
    const content = { panel, frames, events, view };
    return (
      <div key={panel.id} style={style}>
        <PanelChrome title={panel.title} description={panel.description} width={width} height={height}>
          {(width, height) => <Data {...content} width={width} height={height} />}
        </PanelChrome>
      </div>
    );
  }));
  const bottoms = dashboard.panels.map(placeOf).map(({ top, height }) => top + height);
  BOARD.style.height = `${Math.max(...bottoms)}px`;
  flushSync(() => root.render(<Themed>{places}</Themed>));
}

function Themed({ children }: { children?: ReactNode }) {
  return <ThemeContext.Provider value={THEME}><GlobalStyles />{children}</ThemeContext.Provider>;
}

// Of Grafana's grid, in pixels: 24 columns, rows 30 high, 8 between them.
function placeOf({ gridPos: { x, y, w, h } }: Panel | Row) {
  const column = (BOARD.clientWidth + 8) / 24;
  return { left: x * column, top: y * 38, width: w * column - 8, height: h * 38 - 8 };
}

// The frames, with all that the panel says of their fields.
function styled(panel: Panel, frames: DataFrame[]): DataFrame[] {
  const unknown = unknownNames(panel);
  if (unknown.length) {
    throw new Error(`${panel.title}: ${unknown} is not known`);
  }
  const given = { color: { mode: COLOR[panel.type] }, custom: CUSTOM };
  const defaults = defaultsDeep({}, panel.fieldConfig.defaults, given);
  return applyFieldOverrides({
    data: frames, fieldConfig: { ...panel.fieldConfig, defaults } as never,
    fieldConfigRegistry: REGISTRY, replaceVariables: (text) => text, theme: THEME,
  });
}

// Settings that aren't drawn here, and names that Grafana passes over in silence.
function unknownNames({ fieldConfig, options }: Panel): string[] {
  const { custom, ...standard } = fieldConfig.defaults;
  const customs = Object.entries(custom ?? {}).map(([name, value]) => [`custom.${name}`, value]);
  const overrides = fieldConfig.overrides.flatMap(({ properties }) => properties);
  const said: [string, any][] = [
    ...Object.entries(standard), ...customs as [string, any][],
    ...overrides.map(({ id, value }) => [id, value] as [string, any]),
  ];
  const of = (setting: string) => said.filter(([name]) => name === setting).map(([, value]) => value);
  const colors = [...of("color"), ...of("thresholds").flatMap(({ steps }) => steps)]
    .map(({ color, fixedColor }) => color ?? fixedColor ?? "green");
  const calculations = "reduceOptions" in options ? options.reduceOptions.calcs : options.legend.calcs;
  return [
    ...said.map(([name]) => name).filter((name) => !SETTINGS.includes(name)),
    ...of("unit").filter((unit) => ![...UNITS, "suffix"].includes(unit.split(":")[0])),
    ...colors.filter((color) => !/^#/.test(color) && getColorByName(color) === color),
    ...calculations.filter((name) => !fieldReducers.getIfExists(name)),
  ];
}

function Data(content: Content) {
  const values = content.frames.flatMap(({ fields }) => fields[1].values);
  if (values.every((value) => value === null)) {
    return <p>No data</p>;
  }
  return content.panel.type === "stat" ? <Numbers {...content} /> : <Graph {...content} />;
}

function Numbers({ panel, frames, width, height }: Content) {
  const { reduceOptions, orientation, colorMode, graphMode, textMode } = panel.options as never;
  const getValues = () => getFieldDisplayValues({
    data: frames, fieldConfig: panel.fieldConfig as never, reduceOptions,
    sparkline: graphMode !== "none", replaceVariables: (text) => text, theme: THEME,
  });
  return (
    <VizRepeater
      {...{ getValues, orientation, width, height }} source={frames} renderCounter={0}
      renderValue={({ value: { display, sparkline }, width, height }) => (
        <BigValue
          {...{ colorMode, graphMode, textMode, sparkline, width, height }}
          value={display} theme={THEME}
        />
      )}
    />
  );
}

function Graph({ panel, frames, events, view, width, height }: Content) {
  const { legend } = panel.options as never;
  return (
    <TimeSeries {...{ frames, legend, width, height }} timeRange={timeRange(view)} timeZone="utc">
      {(config) => <Marks config={config} events={events} />}
    </TimeSeries>
  );
}

// The annotations, behind the lines.
function Marks({ config, events }: { config: UPlotConfigBuilder; events: Event[] }) {
  useLayoutEffect(() => config.addHook("drawClear", (plot) => {
    const { ctx, bbox } = plot;
    for (const { from, to, color } of events) {
      const [left, right] = [from, to].map((time) => plot.valToPos(time, "x", true));
      ctx.fillStyle = colorManipulator.alpha(getColorByName(color), 0.1);
      ctx.fillRect(left, bbox.top, right - left, bbox.height);
    }
  }), [config]);
  return null;
}

Object.assign(window, { draw });
